// The tenant's own runs: to ask for one, to look, and to cancel, replay or discard.
import type { FastifyInstance } from "fastify";
import { z } from "zod";
import type { Db } from "../db.ts";
import { JOB_STATES, jobCancel, jobDiscard, jobEnqueue, jobGet, jobList, jobReplay } from "../job_api.ts";
import type { Observe } from "../runs.ts";
import { callerOf, Headers, Id, parse, tenantOf } from "./request.ts";

const Request = z.strictObject({
  kind: z.string().min(1).max(63),
  input: z.unknown().optional(),
  run_at: z.iso.datetime({ offset: true }).optional(),
  priority: z.int().min(-100).max(100).optional(),
});
const Page = z.strictObject({
  state: z.enum(JOB_STATES).optional(),
  kind: z.string().min(1).max(63).optional(),
  limit: z.coerce.number().int().min(1).max(200).default(50),
  before: z.uuid().optional(),
});
const Why = z.strictObject({ reason: z.string().min(3).max(500) });
const WhyForced = Why.extend({ force: z.boolean().default(false) });

/**
 * The routes under `/v1/jobs`; each gives up after `timeoutMs`, and tells `observe` what it has changed. Who calls was
 * asked before.
 */
export function jobApi(
  app: FastifyInstance,
  db: Db,
  observe: Pick<Observe, "transition">,
  timeoutMs: number,
): void {
  app.get("/jobs", async (request) => {
    const { limit, ...page } = parse(Page, request.query, "query");
    const jobs = await jobList(db, tenantOf(request.caller), { ...page, maxRows: limit });
    return { jobs, next_before: jobs.length < limit ? null : (jobs.at(-1)?.id ?? null) };
  });

  app.post("/jobs", async (request, reply) => {
    const { kind, input, run_at, priority } = parse(Request, request.body, "body");
    const asked = {
      kind,
      input,
      runAt: run_at === undefined ? undefined : new Date(run_at),
      priority,
      idempotencyKey: parse(Headers, request.headers, "header")["idempotency-key"],
    };
    const signal = AbortSignal.timeout(timeoutMs);
    const { replayed, ...job } = await jobEnqueue(db, tenantOf(request.caller), asked, { signal });
    if (!replayed) {
      observe.transition("", "PENDING");
      request.log.info({ run_id: job.id, kind }, "job_enqueued");
    }
    return reply.code(202).header("location", `/v1/jobs/${job.id}`).send(job);
  });

  app.get("/jobs/:id", async (request) => {
    const { id } = parse(Id, request.params, "path");
    return jobGet(db, tenantOf(request.caller), id);
  });

  app.post("/jobs/:id/cancel", async (request) => {
    const { id } = parse(Id, request.params, "path");
    const { tenantId, subject } = callerOf(request.caller);
    const act = { ...parse(WhyForced, request.body, "body"), actor: subject };
    const signal = AbortSignal.timeout(timeoutMs);
    const { from_state: from, ...cancelled } = await jobCancel(db, tenantId, id, act, { signal });
    if (from !== null) observe.transition(from, cancelled.state);
    request.log.info({ run_id: id, state: cancelled.state }, "job_cancelled");
    return cancelled;
  });

  app.post("/jobs/:id/replay", async (request) => {
    const { id } = parse(Id, request.params, "path");
    const { tenantId, subject } = callerOf(request.caller);
    const act = { ...parse(WhyForced, request.body, "body"), actor: subject };
    const replayed = await jobReplay(db, tenantId, id, act, { signal: AbortSignal.timeout(timeoutMs) });
    observe.transition("DEAD_LETTER", replayed.state);
    request.log.info({ run_id: id }, "job_replayed");
    return replayed;
  });

  app.post("/jobs/:id/discard", async (request) => {
    const { id } = parse(Id, request.params, "path");
    const { tenantId, subject } = callerOf(request.caller);
    const act = { ...parse(Why, request.body, "body"), actor: subject };
    const discarded = await jobDiscard(db, tenantId, id, act, { signal: AbortSignal.timeout(timeoutMs) });
    request.log.info({ run_id: id }, "job_discarded");
    return discarded;
  });
}
