// The budget functions of the contract: one function here for each in SQL. SQL counts the money; this file carries it.
import { z } from "zod";
import { call, type Db } from "./db.ts";

/** What a provider says it used, in tokens. `inputTokens` includes `cachedInputTokens`. */
export type Usage = { inputTokens: number; outputTokens: number; cachedInputTokens: number };

const nanousd = z.coerce.bigint();

const Hold = z.object({
  id: z.uuid(),
  status: z.enum(["RESERVED", "APPLIED", "RELEASED", "PRESUMED", "WRITTEN_OFF"]),
  estimated_cost_nanousd: nanousd,
  expires_at: z.date(),
  replayed: z.boolean(),
});
/** Money held for one call: the most that it can cost, in nano-USD. */
export type Hold = z.infer<typeof Hold>;

const Settlement = z.object({
  id: z.uuid(),
  status: z.string(),
  cost_nanousd: nanousd,
  over_hold_nanousd: nanousd,
});
/** What a call has cost, and how far above its hold, in nano-USD. */
export type Settlement = z.infer<typeof Settlement>;

const Closing = z.object({ id: z.uuid(), status: z.string() });
/** A hold that ended without a bill: RELEASED, or PRESUMED. */
export type Closing = z.infer<typeof Closing>;

const BudgetStatus = z.object({
  scope: z.string(),
  period: z.string(),
  period_start: z.date().nullable(),
  period_end: z.date().nullable(),
  limit_nanousd: nanousd,
  spent_nanousd: nanousd,
  reserved_nanousd: nanousd,
  presumed_nanousd: nanousd,
  left_nanousd: nanousd,
  limit_usd: z.string(),
  spent_usd: z.string(),
  reserved_usd: z.string(),
  presumed_usd: z.string(),
  left_usd: z.string(),
  hard: z.boolean(),
});
/** One budget of a tenant in its running period, in nano-USD and in dollars; a period without an end has null for its bounds. */
export type BudgetStatus = z.infer<typeof BudgetStatus>;

/** What a hold is asked for. Both token counts are upper bounds; `ttlMs` is how long the call may be out, in ms. */
export type HoldRequest = {
  idempotencyKey: string;
  provider: string;
  model: string;
  inputTokensBound: number;
  maxOutputTokens: number;
  runId: string;
  attempt: number;
  ttlMs: number;
};

/** What is known of a billed call besides its tokens. */
export type AnswerFacts = {
  providerRequestId: string | null;
  responseModel: string | null;
  finishReason: string | null;
  simulated: boolean;
};

/** Holds the dearest price of a call. Throws `budget_exceeded`, `no_price`, `idempotency_conflict`, `reservation_invalid`. */
export async function reserve(db: Db, tenantId: string, hold: HoldRequest): Promise<Hold> {
  const rows = await call(
    db,
    tenantId,
    `select id, status, estimated_cost_nanousd, expires_at, replayed
     from app.llm_reserve($1, $2, idempotency_key => $3, provider => $4, model => $5, input_tokens_bound => $6,
       max_output_tokens => $7, run_id => $8, attempt => $9, ttl => make_interval(secs => $10))`,
    [
      hold.idempotencyKey,
      hold.provider,
      hold.model,
      hold.inputTokensBound,
      hold.maxOutputTokens,
      hold.runId,
      hold.attempt,
      hold.ttlMs / 1000,
    ],
    Hold,
  );
  return only(rows);
}

/** Replaces a hold by what the call has cost, late or above the hold too. Throws `reservation_not_found`. */
export async function settle(
  db: Db,
  tenantId: string,
  reservationId: string,
  usage: Usage,
  facts: AnswerFacts,
): Promise<Settlement> {
  const rows = await call(
    db,
    tenantId,
    `select id, status, cost_nanousd, over_hold_nanousd
     from app.llm_settle($1, $2, reservation_id => $3, input_tokens => $4, output_tokens => $5,
       cached_input_tokens => $6, provider_request_id => $7, response_model => $8, finish_reason => $9,
       simulated => $10)`,
    [
      reservationId,
      usage.inputTokens,
      usage.outputTokens,
      usage.cachedInputTokens,
      facts.providerRequestId,
      facts.responseModel,
      facts.finishReason,
      facts.simulated,
    ],
    Settlement,
  );
  return only(rows);
}

/** Gives a hold back. Only with proof that nothing was billed. Throws `reservation_closed`. */
export async function release(
  db: Db,
  tenantId: string,
  reservationId: string,
  reason: string,
): Promise<Closing> {
  const text = "select id, status from app.llm_release($1, $2, reservation_id => $3, reason => $4)";
  return only(await call(db, tenantId, text, [reservationId, reason], Closing));
}

/** Keeps a hold counting, for a call that may have been billed. Throws `reservation_closed`. */
export async function presume(
  db: Db,
  tenantId: string,
  reservationId: string,
  reason: string,
): Promise<Closing> {
  const text = "select id, status from app.llm_presume($1, $2, reservation_id => $3, reason => $4)";
  return only(await call(db, tenantId, text, [reservationId, reason], Closing));
}

/** Every budget of the tenant in the period that runs now. */
export async function budgetStatus(db: Db, tenantId: string): Promise<BudgetStatus[]> {
  return call(
    db,
    tenantId,
    `select scope, period, period_start, period_end, limit_nanousd, spent_nanousd, reserved_nanousd,
       presumed_nanousd, left_nanousd, limit_usd, spent_usd, reserved_usd, presumed_usd, left_usd, hard
     from app.budget_status($1, $2)`,
    [],
    BudgetStatus,
  );
}

/** The row of a function that returns exactly one. */
function only<T>(rows: T[]): T {
  const [row] = rows;
  if (row === undefined || rows.length > 1) throw new Error(`expected one row, got ${rows.length}`);
  return row;
}
