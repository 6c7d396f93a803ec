// The budget functions of the contract: one function here for each in SQL. SQL counts the money; this file carries it.
import { z } from "zod";
import { type CallOptions, call, type Db } from "./db.ts";
import { AppError, ERRORS, type ErrorCode } from "./errors.ts";

/**
 * What a provider says it used. `inputTokens` includes cached and written ones, `outputTokens` those of reasoning; what is
 * absent is 0. `final: false` is a stream so far; `source: "estimated"` is what we counted ourselves.
 */
export type Usage = {
  inputTokens: number;
  outputTokens: number;
  cachedInputTokens: number;
  cacheWrite5mTokens?: number | undefined;
  cacheWrite1hTokens?: number | undefined;
  reasoningTokens?: number | undefined;
  images?: number | undefined;
  toolCalls?: number | undefined;
  final?: boolean | undefined;
  source?: "provider" | "estimated" | undefined;
};

/** What is known of a billed call besides its tokens. */
export type AnswerFacts = {
  providerRequestId: string | null;
  responseModel: string | null;
  finishReason: string | null;
  simulated: boolean;
  /** It is a client that says so: the hold of a run is not found. */
  ofClient?: boolean;
};

/** Who asks: for a client the hold of a run is not found. */
export type Asking = { ofClient?: boolean };

/** What one call has used: of which hold, how much, and what else is known. */
export type Settle = { reservationId: string; usage: Usage; facts?: Partial<AnswerFacts> | undefined };

/** What a call is priced by, and which budgets it falls under. All counts are upper bounds. */
export type QuoteRequest = {
  provider: string;
  model: string;
  inputTokensBound: number;
  maxOutputTokens: number;
  /** Where the money is short the hold is clamped, down to so many; absent: it is refused. */
  minOutputTokens?: number | undefined;
  serviceTier?: "standard" | "priority" | "flex" | "batch" | undefined;
  images?: number | undefined;
  toolCalls?: number | undefined;
  apiKey?: string | undefined;
  userId?: string | undefined;
  tags?: readonly string[] | undefined;
};

/** What a hold is asked for. `ttlMs` is how long the call may be out, in ms: 120,000 where it is absent. */
export type HoldRequest = QuoteRequest & {
  idempotencyKey: string;
  runId?: string | undefined;
  attempt?: number | undefined;
  ttlMs?: number | undefined;
};

const nanousd = z.coerce.bigint();
const HoldStatus = z.enum(["RESERVED", "APPLIED", "RELEASED", "PRESUMED", "WRITTEN_OFF"]);

const Hold = z.object({
  id: z.uuid(),
  status: HoldStatus,
  estimated_cost_nanousd: nanousd,
  max_output_tokens: z.coerce.number(),
  expires_at: z.date(),
  replayed: z.boolean(),
});
/**
 * Money held for one call: the most that it can cost, in nano-USD. `max_output_tokens` is what may be sent: less than was
 * asked for where the hold was clamped.
 */
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

const Extension = Closing.extend({ expires_at: z.date() });
/** A hold that goes on, and until when. */
export type Extension = z.infer<typeof Extension>;

const ErrorName = z.enum(Object.keys(ERRORS) as [ErrorCode, ...ErrorCode[]]);
const Refusal = z.object({
  n: z.int(),
  refusal: ErrorName,
  detail: z.record(z.string(), z.unknown()).nullable(),
  hint: z.string().nullable(),
});
const answered = { n: z.int(), refusal: z.null() };
const HoldAnswer = z.discriminatedUnion("refusal", [Hold.extend(answered), Refusal]);
const SettleAnswer = z.discriminatedUnion("refusal", [Settlement.extend(answered), Refusal]);

const Quote = z.object({
  fits: z.boolean(),
  estimated_cost_nanousd: nanousd.nullable(),
  estimated_cost_usd: z.string().nullable(),
  granted_output_tokens: z.coerce.number().nullable(),
  refusal: ErrorName.nullable(),
  detail: z.record(z.string(), z.unknown()).nullable(),
  hint: z.string().nullable(),
});
/** What a hold would be answered now: the most that the call can cost, and whether it fits, or why not. */
export type Quote = z.infer<typeof Quote>;

const BudgetStatus = z.object({
  scope: z.string(),
  scope_id: z.string(),
  period: z.string(),
  period_start: z.date().nullable(),
  period_end: z.date().nullable(),
  limit_nanousd: nanousd.nullable(),
  spent_nanousd: nanousd,
  reserved_nanousd: nanousd,
  presumed_nanousd: nanousd,
  left_nanousd: nanousd.nullable(),
  limit_usd: z.string().nullable(),
  spent_usd: z.string(),
  reserved_usd: z.string(),
  presumed_usd: z.string(),
  left_usd: z.string().nullable(),
  hard: z.boolean(),
});
/**
 * One budget of a tenant in its running period, in nano-USD and in dollars. `limit` and `left` are null where it is
 * unlimited, the bounds of a period without an end too.
 */
export type BudgetStatus = z.infer<typeof BudgetStatus>;

/** How long a statement waits for a budget that others keep locked, where `Db` does not say: 3 s. */
const LOCK_MS = 3_000;

/** Holds the dearest price of a call. Throws `budget_exceeded`, `no_price`, `idempotency_conflict`, `reservation_invalid`. */
export async function reserve(db: Db, tenantId: string, hold: HoldRequest): Promise<Hold> {
  const rows = await call(
    db,
    tenantId,
    `select id, status, estimated_cost_nanousd, granted_output_tokens as max_output_tokens, expires_at, replayed
     from app.llm_reserve($1, $2, idempotency_key => $3, provider => $4, model => $5, input_tokens_bound => $6,
       max_output_tokens => $7, run_id => $8, attempt => $9, ttl => make_interval(secs => $10),
       min_output_tokens => $11, service_tier => $12, images => $13, tool_calls => $14, api_key => $15,
       user_id => $16, tags => $17)`,
    [
      hold.idempotencyKey,
      hold.provider,
      hold.model,
      hold.inputTokensBound,
      hold.maxOutputTokens,
      hold.runId,
      hold.attempt ?? 1,
      (hold.ttlMs ?? 120_000) / 1000,
      hold.minOutputTokens,
      hold.serviceTier ?? "standard",
      hold.images ?? 0,
      hold.toolCalls ?? 0,
      hold.apiKey,
      hold.userId,
      hold.tags ?? [],
    ],
    Hold,
  );
  return only(rows);
}

/**
 * Holds for up to 1,000 calls, in this order; in the place of one that is refused is the error that `reserve` throws. The
 * texts are those of `askText`. Throws `budget_busy`.
 */
export async function reserveMany(
  db: Db,
  tenantId: string,
  asks: readonly string[],
  options?: CallOptions,
): Promise<(Hold | AppError)[]> {
  const text = `select n, id, status, estimated_cost_nanousd, max_output_tokens, expires_at, replayed, refusal, detail, hint
     from app.llm_reserve_many($1, $2, asks => $3, lock_timeout_ms => $4)`;
  const values = [`[${asks.join()}]`, lockMs(db)];
  const rows = counted(db, asks.length, call(db, tenantId, text, values, HoldAnswer, options));
  return inOrder<Hold>(asks.length, await rows);
}

/** Replaces a hold by what the call has cost, late or above the hold too. Throws `reservation_not_found`. */
export async function settle(
  db: Db,
  tenantId: string,
  reservationId: string,
  usage: Usage,
  facts: Partial<AnswerFacts> = {},
): Promise<Settlement> {
  const rows = await call(
    db,
    tenantId,
    `select id, status, cost_nanousd, over_hold_nanousd
     from app.llm_settle($1, $2, reservation_id => $3, input_tokens => $4, output_tokens => $5,
       cached_input_tokens => $6, provider_request_id => $7, response_model => $8, finish_reason => $9,
       simulated => $10, final => $11, cache_write_5m_tokens => $12, cache_write_1h_tokens => $13,
       reasoning_tokens => $14, images => $15, tool_calls => $16, source => $17)`,
    [
      reservationId,
      usage.inputTokens,
      usage.outputTokens,
      usage.cachedInputTokens,
      facts.providerRequestId,
      facts.responseModel,
      facts.finishReason,
      facts.simulated ?? false,
      usage.final ?? true,
      usage.cacheWrite5mTokens ?? 0,
      usage.cacheWrite1hTokens ?? 0,
      usage.reasoningTokens ?? 0,
      usage.images ?? 0,
      usage.toolCalls ?? 0,
      usage.source ?? "provider",
    ],
    Settlement,
  );
  return only(rows);
}

/**
 * Settles up to 1,000 holds, in this order; in the place of one that is refused is the error that `settle` throws. The
 * texts are those of `settleText`. Throws `budget_busy`.
 */
export async function settleMany(
  db: Db,
  tenantId: string,
  settles: readonly string[],
  options?: CallOptions,
): Promise<(Settlement | AppError)[]> {
  const text = `select n, id, status, cost_nanousd, over_hold_nanousd, refusal, detail, hint
     from app.llm_settle_many($1, $2, settles => $3, lock_timeout_ms => $4)`;
  const values = [`[${settles.join()}]`, lockMs(db)];
  const rows = counted(db, settles.length, call(db, tenantId, text, values, SettleAnswer, options));
  return inOrder<Settlement>(settles.length, await rows);
}

/**
 * A request for a hold as `reserveMany` takes it. Throws `reservation_invalid` and `job_run_not_found` for what would make
 * the whole list unreadable.
 */
export function askText(ask: HoldRequest): string {
  if (ask.runId !== undefined && !isUuid(ask.runId)) throw new AppError("job_run_not_found");
  return listItem({
    ...quoted(ask),
    idempotency_key: ask.idempotencyKey,
    run_id: ask.runId,
    attempt: ask.attempt,
    ttl_ms: ask.ttlMs,
  });
}

/** What a call has used as `settleMany` takes it. Throws as `askText` does; an id that is none is one of no hold. */
export function settleText({ reservationId, usage, facts = {} }: Settle): string {
  if (!isUuid(reservationId)) {
    const hint = "Use the id that the reservation was answered with.";
    throw new AppError("reservation_not_found", { hint });
  }
  return listItem({
    reservation_id: reservationId,
    input_tokens: usage.inputTokens,
    output_tokens: usage.outputTokens,
    cached_input_tokens: usage.cachedInputTokens,
    cache_write_5m_tokens: usage.cacheWrite5mTokens,
    cache_write_1h_tokens: usage.cacheWrite1hTokens,
    reasoning_tokens: usage.reasoningTokens,
    images: usage.images,
    tool_calls: usage.toolCalls,
    final: usage.final,
    source: usage.source,
    provider_request_id: facts.providerRequestId,
    response_model: facts.responseModel,
    finish_reason: facts.finishReason,
    simulated: facts.simulated,
    of_client: facts.ofClient,
  });
}

/** Gives a hold back. Only with proof that nothing was billed. Throws `reservation_closed`, `budget_busy`. */
export async function release(
  db: Db,
  tenantId: string,
  reservationId: string,
  reason: string,
  { ofClient = false }: Asking = {},
): Promise<Closing> {
  const text = `select id, status
     from app.llm_release($1, $2, reservation_id => $3, reason => $4, lock_timeout_ms => $5, of_client => $6)`;
  const values = [reservationId, reason, lockMs(db), ofClient];
  return only(await counted(db, 1, call(db, tenantId, text, values, Closing)));
}

/** Keeps a hold counting, for a call that may have been billed. Throws `reservation_closed`, `budget_busy`. */
export async function presume(
  db: Db,
  tenantId: string,
  reservationId: string,
  reason: string,
): Promise<Closing> {
  const text = `select id, status
     from app.llm_presume($1, $2, reservation_id => $3, reason => $4, lock_timeout_ms => $5)`;
  const values = [reservationId, reason, lockMs(db)];
  return only(await counted(db, 1, call(db, tenantId, text, values, Closing)));
}

/** The heartbeat of a call that goes on: its hold lasts `ttlMs` from now. Throws `reservation_closed` once it has lapsed. */
export async function extend(
  db: Db,
  tenantId: string,
  reservationId: string,
  ttlMs: number,
  { ofClient = false }: Asking = {},
): Promise<Extension> {
  const text = `select id, status, expires_at
     from app.llm_extend($1, $2, reservation_id => $3, ttl => make_interval(secs => $4), lock_timeout_ms => $5,
       of_client => $6)`;
  const values = [reservationId, ttlMs / 1000, lockMs(db), ofClient];
  return only(await counted(db, 1, call(db, tenantId, text, values, Extension)));
}

/** What a hold of that size would be answered now. Holds nothing. Throws `reservation_invalid`. */
export async function quote(db: Db, tenantId: string, ask: QuoteRequest): Promise<Quote> {
  const text = `select fits, estimated_cost_nanousd, estimated_cost_usd, granted_output_tokens, refusal, detail, hint
     from app.llm_quote($1, $2, ask => $3)`;
  return only(await call(db, tenantId, text, [listItem(quoted(ask))], Quote));
}

/** Every budget of the tenant in the period that runs now. */
export async function budgetStatus(db: Db, tenantId: string): Promise<BudgetStatus[]> {
  return call(
    db,
    tenantId,
    `select scope, scope_id, period, period_start, period_end, limit_nanousd, spent_nanousd, reserved_nanousd,
       presumed_nanousd, left_nanousd, limit_usd, spent_usd, reserved_usd, presumed_usd, left_usd, hard
     from app.budget_status($1, $2)`,
    [],
    BudgetStatus,
  );
}

function lockMs(db: Db): number {
  return db.budgets?.lockTimeoutMs ?? LOCK_MS;
}

/** The rows of a statement about so many holds; a budget that it found locked for too long is counted. */
async function counted<T>(db: Db, holds: number, rows: Promise<T[]>): Promise<T[]> {
  return rows.catch((error: unknown) => {
    if (error instanceof AppError && error.code === "budget_busy") db.budgets?.observe?.busy(holds);
    throw error;
  });
}

/** The row of a function that returns exactly one. */
function only<T>(rows: T[]): T {
  const [row] = rows;
  if (row === undefined || rows.length > 1) throw new Error(`expected one row, got ${rows.length}`);
  return row;
}

type Refused = {
  n: number;
  refusal: ErrorCode;
  detail: Record<string, unknown> | null;
  hint: string | null;
};

/** The answers by the place of what was asked, `n` from 1. */
function inOrder<T extends object>(
  count: number,
  rows: ((T & { n: number; refusal: null }) | Refused)[],
): (T | AppError)[] {
  if (rows.length !== count) throw new Error(`expected ${count} answers, got ${rows.length}`);
  const answers = new Array<T | AppError>(count);
  for (const row of rows) {
    const { n, refusal, ...answer } = row;
    answers[n - 1] = refusal === null ? (answer as unknown as T) : refusalOf(row as Refused);
  }
  return answers;
}

function refusalOf({ refusal, detail, hint }: Refused): AppError {
  return new AppError(refusal, { detail: detail ?? {}, hint: hint ?? undefined });
}

function quoted(ask: QuoteRequest): Record<string, unknown> {
  return {
    provider: ask.provider,
    model: ask.model,
    service_tier: ask.serviceTier,
    input_tokens_bound: ask.inputTokensBound,
    max_output_tokens: ask.maxOutputTokens,
    min_output_tokens: ask.minOutputTokens,
    images: ask.images,
    tool_calls: ask.toolCalls,
    api_key: ask.apiKey,
    user_id: ask.userId,
    tags: ask.tags,
  };
}

/**
 * One object of a list. What jsonb cannot hold would fail all that are in the list, and a number that JSON has no word for
 * would be taken for an absent one, which is 0.
 */
function listItem(fields: Record<string, unknown>): string {
  const text = JSON.stringify(fields);
  const numbers = Object.values(fields).filter((value) => typeof value === "number");
  if (numbers.every(Number.isFinite) && !NO_JSONB.test(text)) return text;
  throw new AppError("reservation_invalid", {
    hint: "Numbers are finite, and texts are without NUL and without half of a character.",
  });
}

/** `\u0000`, or a surrogate alone, which `JSON.stringify` escapes; a backslash of the text itself comes as two. */
const NO_JSONB = /(?<!\\)(?:\\\\)*\\u(?:0000|d[89a-f])/;

function isUuid(text: string): boolean {
  return /^[\da-f]{8}(?:-[\da-f]{4}){3}-[\da-f]{12}$/i.test(text);
}
