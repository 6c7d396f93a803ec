// The analysis functions of the contract that callers use: one function here for each in SQL.
import { z } from "zod";
import { type CallOptions, call, type Db } from "./db.ts";

const Requested = z.object({
  id: z.uuid(),
  run_id: z.uuid(),
  status: z.string(),
  created_at: z.date(),
  replayed: z.boolean(),
});

/** An analysis that will run: `run_id` is its job run; `replayed`, that an earlier request asked for it. */
export type Requested = z.infer<typeof Requested>;

/** What an analysis may cost at most: the model whose prices apply, and upper bounds in tokens. */
export type AnalysisRequest = {
  provider: string;
  model: string;
  inputTokensBound: number;
  maxOutputTokens: number;
  idempotencyKey: string | undefined;
};

/**
 * Asks for an analysis; with the key of an earlier request, gives that one again. Throws `budget_exceeded`
 * and `no_price` before a run exists, and `idempotency_conflict`.
 */
export async function analysisRequest(
  db: Db,
  tenantId: string,
  request: AnalysisRequest,
  options?: CallOptions,
): Promise<Requested> {
  const [requested] = await call(
    db,
    tenantId,
    `select id, run_id, status, created_at, replayed
     from app.analysis_request($1, $2, provider => $3, model => $4, input_tokens_bound => $5,
       max_output_tokens => $6, idempotency_key => $7)`,
    [
      request.provider,
      request.model,
      request.inputTokensBound,
      request.maxOutputTokens,
      request.idempotencyKey ?? null,
    ],
    Requested,
    options,
  );
  return requested!;
}

const nanousd = z.coerce.bigint();

const Analysis = z.object({
  id: z.uuid(),
  run_id: z.uuid(),
  status: z.enum(["PENDING", "RUNNING", "COMPLETED", "FAILED"]),
  narrated_by: z.enum(["model", "template"]).nullable(),
  fallback_reason: z.string().nullable(),
  provider: z.string().nullable(),
  model: z.string().nullable(),
  summary: z.string().nullable(),
  findings: z.int().nullable(),
  llm_reserved_nanousd: nanousd,
  llm_settled_nanousd: nanousd,
  llm_reserved_usd: z.string(),
  llm_settled_usd: z.string(),
  error_code: z.string().nullable(),
  created_at: z.date(),
  started_at: z.date().nullable(),
  finished_at: z.date().nullable(),
  without: z.array(z.string()),
});

/**
 * An analysis as it stands: what its calls held and cost, in nano-USD and in decimals of a dollar; how many
 * findings were open at its end. `fallback_reason` says why the template worded it; `without` names what of its turn had
 * failed for good before it, such as `cost_import`.
 */
export type Analysis = z.infer<typeof Analysis>;

/** One analysis of the tenant. Throws `analysis_not_found`. */
export async function analysisGet(db: Db, tenantId: string, analysisId: string): Promise<Analysis> {
  const [analysis] = await call(
    db,
    tenantId,
    `select id, run_id, status, narrated_by, fallback_reason, provider, model, summary, findings,
       llm_reserved_nanousd, llm_settled_nanousd, llm_reserved_usd, llm_settled_usd, error_code, created_at,
       started_at, finished_at, without
     from app.analysis_get($1, $2, analysis_id => $3)`,
    [analysisId],
    Analysis,
  );
  return analysis!;
}
