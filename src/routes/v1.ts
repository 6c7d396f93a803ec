// The tenant's API. A handler parses, calls one function of the contract, and answers with its rows.
import type { FastifyInstance } from "fastify";
import { z } from "zod";
import { analysisGet, analysisRequest } from "../analyses.ts";
import { authenticate, type Caller } from "../auth.ts";
import type { Config } from "../config.ts";
import type { Db } from "../db.ts";
import { findingsList } from "../findings.ts";
import type { Metrics } from "../metrics.ts";
import { ANALYSIS_BOUND } from "../narrative/prompt.ts";
import { budgetApi } from "./budget.ts";
import { jobApi } from "./jobs.ts";
import { Headers, Id, parse, tenantOf } from "./request.ts";

declare module "fastify" {
  interface FastifyRequest {
    /** Who calls; null on routes that ask nobody. */
    caller: Caller | null;
  }
}

const NoFields = z.strictObject({}).nullish();
const Page = z.strictObject({
  state: z.enum(["open", "acknowledged", "snoozed", "dismissed", "resolved"]).default("open"),
  limit: z.coerce.number().int().min(1).max(200).default(50),
  after: z.coerce.number().int().min(0).max(2_147_483_647).default(0),
});

/**
 * The routes under `/v1`. Each asks for a token before it reads more of the request, and gives up after
 * `timeoutMs`.
 */
export function tenantApi(
  app: FastifyInstance,
  deps: {
    db: Db;
    config: Pick<Config<"api">, "jwtSecretKey">;
    llm: { provider: string; model: string };
    metrics: Pick<Metrics, "runs">;
  },
  timeoutMs: number,
): void {
  const { db, config, llm, metrics } = deps;
  app.addHook("onRequest", async (request, reply) => {
    const caller = await authenticate(config, request.headers.authorization);
    request.caller = caller;
    // From here on every line of this request says whose it is.
    request.log = reply.log = request.log.child({ tenant_id: caller.tenantId, subject: caller.subject });
  });

  app.post("/analyses", async (request, reply) => {
    parse(NoFields, request.body, "body");
    const tenantId = tenantOf(request.caller);
    const asked = {
      ...llm,
      inputTokensBound: ANALYSIS_BOUND.inputTokens,
      maxOutputTokens: ANALYSIS_BOUND.maxOutputTokens,
      idempotencyKey: parse(Headers, request.headers, "header")["idempotency-key"],
    };
    const signal = AbortSignal.timeout(timeoutMs);
    const { replayed, ...analysis } = await analysisRequest(db, tenantId, asked, { signal });
    if (!replayed) {
      metrics.runs.transition("", "PENDING");
      request.log.info({ analysis_id: analysis.id, run_id: analysis.run_id }, "analysis_requested");
    }
    return reply.code(202).header("location", `/v1/analyses/${analysis.id}`).send(analysis);
  });

  app.get("/analyses/:id", async (request) => {
    const { id } = parse(Id, request.params, "path");
    return analysisGet(db, tenantOf(request.caller), id);
  });

  app.get("/findings", async (request) => {
    const { state, limit, after } = parse(Page, request.query, "query");
    const findings = await findingsList(db, tenantOf(request.caller), {
      state,
      maxRows: limit,
      afterRank: after,
    });
    return { findings, next_after: findings.length < limit ? null : (findings.at(-1)?.rank ?? null) };
  });

  budgetApi(app, db, timeoutMs);
  jobApi(app, db, metrics.runs, timeoutMs);
}
