// What orchestrators and Prometheus ask. None of it needs a token, and none of it names a tenant.
import { randomUUID } from "node:crypto";
import { hostname } from "node:os";
import type { FastifyInstance, FastifyReply, FastifyRequest } from "fastify";
import { z } from "zod";
import { call, type Db, systemCall } from "../db.ts";
import { AppError } from "../errors.ts";
import type { Log } from "../log.ts";
import { isUnmigrated } from "../login_check.ts";
import type { Metrics } from "../metrics.ts";

/** Whether to send requests here, and what was looked at; `cause` is for the log. */
export type Readiness = { ready: boolean; checks: Record<string, boolean>; cause?: unknown };

const READY_DEADLINE_MS = 2_000;

const Checks = z.object({ migrations: z.boolean(), ticket_key: z.boolean() });

/**
 * Ready when the database answers, has run `migration`, the newest that this program knows, and lets in a ticket of this
 * process. Never throws; what stands in the way is a check that is false.
 */
export async function databaseReadiness(db: Db, migration: string): Promise<Readiness> {
  const signal = AbortSignal.timeout(READY_DEADLINE_MS);
  try {
    const text =
      "select app.migration_applied($3) as migrations, app.ticket_check($2) as ticket_key, $1::uuid as nobody";
    const [found] = await call(db, randomUUID(), text, [migration], Checks, { signal });
    const { migrations, ticket_key } = found!;
    return { ready: migrations && ticket_key, checks: { database: true, migrations, ticket_key } };
  } catch (cause) {
    const checks = { database: isUnmigrated(cause), migrations: false, ticket_key: false };
    return { ready: false, checks, cause };
  }
}

const Seen = z.object({ seen: z.boolean() });

/** Ready when `databaseReadiness` is, and this process is registered as a worker that has just beaten. Never throws. */
export async function workerReadiness(db: Db, migration: string): Promise<Readiness> {
  const found = await databaseReadiness(db, migration);
  if (!found.ready) return { ...found, checks: { ...found.checks, worker_seen: false } };
  try {
    const signal = AbortSignal.timeout(READY_DEADLINE_MS);
    const text = "select app.worker_seen(host => $1, pid => $2) as seen";
    const [worker] = await systemCall(db, text, [hostname(), process.pid], Seen, { signal });
    const { seen } = worker!;
    return { ready: seen, checks: { ...found.checks, worker_seen: seen } };
  } catch (cause) {
    return { ready: false, checks: { ...found.checks, worker_seen: false }, cause };
  }
}

/** `/livez` never asks the database: a database that is away is no reason to kill this process. */
export function probes(
  app: FastifyInstance,
  deps: { log: Log; metrics: Metrics; ready: () => Promise<Readiness>; isDraining: () => boolean },
): void {
  const note = changesIn(deps.log);
  // Whatever a prober posts, it is not read.
  app.removeAllContentTypeParsers();
  app.addContentTypeParser("*", { parseAs: "buffer" }, (_request, _body, done) => done(null));

  const readyz = async (_request: FastifyRequest, reply: FastifyReply) => {
    const readiness = await withinDeadline(deps.ready());
    note(readiness);
    const { ready, checks } = readiness;
    const all = { ...checks, not_draining: !deps.isDraining() };
    if (!ready || deps.isDraining()) throw new AppError("service_unavailable", { detail: { checks: all } });
    return reply.send({ status: "ready", checks: all });
  };
  const metrics = async (_request: FastifyRequest, reply: FastifyReply) =>
    reply.type(deps.metrics.registry.contentType).send(await deps.metrics.registry.metrics());

  app.get("/livez", async () => ({ status: "alive" }));
  app.get("/readyz", readyz);
  app.route({ method: ["GET", "POST"], url: "/health", handler: readyz });
  app.get("/metrics", metrics);
  app.get("/health/metrics", metrics);
}

/** Logs why readiness was lost, and that it came back: once for each change, not at each probe. */
function changesIn(log: Log): (readiness: Readiness) => void {
  let wasReady = true;
  return ({ ready, checks, cause }) => {
    if (ready === wasReady) return;
    wasReady = ready;
    if (ready) log.info({ checks }, "readiness_regained");
    else log.error({ checks, err: cause }, "readiness_lost");
  };
}

async function withinDeadline(readiness: Promise<Readiness>): Promise<Readiness> {
  const late = Promise.withResolvers<Readiness>();
  const timer = setTimeout(
    () => late.resolve({ ready: false, checks: { in_time: false } }),
    READY_DEADLINE_MS + 500,
  );
  const failed = (cause: unknown) => ({ ready: false, checks: { answered: false }, cause });
  try {
    return await Promise.race([readiness.catch(failed), late.promise]);
  } finally {
    clearTimeout(timer);
  }
}
