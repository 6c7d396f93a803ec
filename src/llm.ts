// The one road to a language model: hold money, send, settle. A retry is another call with its own hold.
import { setTimeout as sleep } from "node:timers/promises";
import type { Logger } from "pino";
import { reserveTogether, settleTogether } from "./budgets/coalesced.ts";
import { type Hold, presume, release, type Usage } from "./budgets.ts";
import type { Db } from "./db.ts";
import { AppError } from "./errors.ts";
import { type CallStatus, type Ending, exchange } from "./llm/exchange.ts";
import { openCall } from "./llm/open_calls.ts";
import { type BoundedRequest, readRequest } from "./llm/request.ts";
import { mayBeSettledLater, type Spool } from "./llm/spool.ts";
import { offlineAnalyst } from "./offline_analyst.ts";

/**
 * Who answers: an OpenAI-compatible endpoint, or the rules of this process. Prices go by `name` and `model`.
 */
export type Provider = {
  name: string;
  model: string;
  baseUrl: string;
  apiKey: string | undefined;
  /** No money changes hands: its cost is counted and marked. */
  simulated: boolean;
  send: typeof fetch;
};

/**
 * Where measurements go: the wait for a hold, and each call with what it used (nothing, where it is not
 * known).
 */
export type Observe = {
  budgetCheckSeconds(seconds: number): void;
  call(status: CallStatus, seconds: number, usage: Usage | undefined): void;
  /** A call has cost more than its hold: the bound was none. */
  overHold(): void;
};

/**
 * What every call needs. `deadlineMs` is for one call, answer included. `retryDelaysMs` is one pause per
 * retry.
 */
export type Llm = {
  db: Db;
  log: Logger;
  provider: Provider;
  deadlineMs: number;
  retryDelaysMs?: readonly number[];
  observe?: Observe;
  /** Where usage is kept that could not be written; without one it is in the log alone, and its hold lapses. */
  spool?: Pick<Spool, "add">;
};

/**
 * The attempt of a run that calls. `deadlineAt` (ms since 1970) bounds its calls and the pauses between them.
 * `signal` lets the caller go at once; a call that is out goes on without it, up to its own deadline or to the
 * worker's end, and settles its hold.
 */
export type Attempt = { runId: string; attempt: number; deadlineAt: number; signal: AbortSignal };

/** A call that brought no answer. `unsent` means that the provider never saw the request. */
export class ModelCallError extends Error {
  readonly reason: "llm_timeout" | "llm_unavailable";
  readonly unsent: boolean;

  constructor(status: CallStatus, cause?: unknown) {
    super(`the model gave no answer: ${status}`, { cause });
    this.name = "ModelCallError";
    this.reason = status === "timeout" || status === "not_sent" ? "llm_timeout" : "llm_unavailable";
    this.unsent = status === "unreachable";
  }
}

const RETRY_DELAYS_MS: readonly number[] = [1_000, 2_000];
/** How long a hold outlives the deadline of its call, in ms: time to write what the call has cost. */
const HOLD_MARGIN_MS = 60_000;

/** The provider of the settings, named after its host; without an address, the offline analyst. */
export function providerOf(settings: {
  baseUrl?: string | undefined;
  apiKey?: string | undefined;
  model?: string | undefined;
}): Provider {
  const { baseUrl, apiKey, model } = settings;
  if (baseUrl === undefined || model === undefined) return OFFLINE;
  return { name: hostOf(baseUrl), model, baseUrl, apiKey, simulated: false, send: fetch };
}

/** Bedrock has a host for each region, and prices for one name. */
function hostOf(baseUrl: string): string {
  return new URL(baseUrl).host.replace(/^(bedrock-runtime)\.[\w-]+(\.amazonaws\.com)$/, "$1$2");
}

/** Deterministic rules behind the same wire, in this process; the address is never dialled. */
export const OFFLINE: Provider = {
  name: "offline",
  model: "offline-analyst",
  baseUrl: "http://offline.invalid/v1",
  apiKey: undefined,
  simulated: true,
  send: offlineAnalyst,
};

/**
 * A `fetch` for chat completions that never sends without a hold. Each call is one hold and one request,
 * under the key `run:<run_id>:<attempt>:<n>`. No signal of the caller reaches the provider, since a call that
 * is cut loses the usage it is billed for. Throws what `reserve` throws, `invalid_request` for a body whose
 * price has no bound, `ModelCallError`, and the reason of the attempt's signal.
 */
export function budgetedFetch(llm: Llm, tenantId: string, attempt: Attempt): typeof fetch {
  let calls = 0;
  return async (input, init) => {
    const request = readRequest(init?.body);
    attempt.signal.throwIfAborted();
    if (timeLeft(llm, attempt) <= 0) throw new ModelCallError("not_sent");
    calls += 1;
    const key = `run:${attempt.runId}:${attempt.attempt}:${calls}`;
    const work = async (cut: AbortSignal) => {
      const hold = await holdFor(llm, tenantId, attempt, request, key);
      const started = performance.now();
      const left = attempt.signal.aborted ? 0 : timeLeft(llm, attempt);
      const sent = { ...init, body: request.body, signal: cut };
      const ending = await exchange(llm.provider.send, input, sent, left);
      await close(llm, hold, ending, factsOf(llm, tenantId, attempt, request.model, hold));
      const usage = typeof ending.billed === "string" ? undefined : ending.billed.usage;
      llm.observe?.call(ending.status, seconds(started), usage);
      if (ending.response === undefined) throw new ModelCallError(ending.status, ending.error);
      return ending.response;
    };
    return unlessAborted(attempt.signal, openCall(llm.db, work));
  };
}

/** Lets the caller go when its signal says so; the work it began goes on to its end. */
async function unlessAborted<T>(signal: AbortSignal, work: Promise<T>): Promise<T> {
  const gone = Promise.withResolvers<never>();
  const leave = () => gone.reject(signal.reason);
  signal.addEventListener("abort", leave, { once: true });
  return Promise.race([work, gone.promise]).finally(() => signal.removeEventListener("abort", leave));
}

/**
 * `budgetedFetch`, and again: up to once per pause it sends anew what was refused without a bill (no
 * connection, 429) and what failed with a 5xx, whose hold stays presumed. Each pause has jitter of a quarter,
 * and `Retry-After` lengthens it; one that does not fit into the attempt's time is not begun. A deadline and
 * a cut answer are never sent again: they are likely to be billed, and the time is gone. Throws what
 * `budgetedFetch` throws, of the last call.
 */
export function retryingFetch(llm: Llm, tenantId: string, attempt: Attempt): typeof fetch {
  const send = budgetedFetch(llm, tenantId, attempt);
  const delays = llm.retryDelaysMs ?? RETRY_DELAYS_MS;
  return async (input, init) => {
    for (let tries = 0; ; tries += 1) {
      const outcome = await send(input, init).catch(unsentOnly);
      const delay = delays[tries];
      if (delay === undefined || !mayBeSentAgain(outcome)) return answerOf(outcome);

      const asked = outcome instanceof Response ? retryAfterMs(outcome.headers.get("retry-after")) : 0;
      const pause = Math.max(delay * (0.75 + Math.random() / 2), asked);
      if (Date.now() + pause >= attempt.deadlineAt) return answerOf(outcome);

      const facts = { tenant_id: tenantId, run_id: attempt.runId, model: llm.provider.model };
      llm.log.info({ ...facts, pause_ms: Math.round(pause), retry: tries + 1 }, "llm_retry");
      await sleep(pause, undefined, { signal: attempt.signal }).catch(() => attempt.signal.throwIfAborted());
    }
  };
}

function unsentOnly(error: unknown): ModelCallError {
  if (error instanceof ModelCallError && error.unsent) return error;
  throw error;
}

function mayBeSentAgain(outcome: Response | ModelCallError): boolean {
  return outcome instanceof ModelCallError || outcome.status === 429 || outcome.status >= 500;
}

function answerOf(outcome: Response | ModelCallError): Response {
  if (outcome instanceof ModelCallError) throw outcome;
  return outcome;
}

/**
 * Milliseconds that a `Retry-After` of seconds or of a date asks for (RFC 9110, 10.2.3); 0 for anything else.
 */
export function retryAfterMs(value: string | null, now = Date.now()): number {
  if (value === null) return 0;
  if (/^\s*\d+\s*$/.test(value)) return Number(value) * 1000;
  const at = Date.parse(value);
  return Number.isNaN(at) ? 0 : Math.max(0, at - now);
}

// The hold, before the call and after it.

async function holdFor(
  llm: Llm,
  tenantId: string,
  attempt: Attempt,
  request: BoundedRequest,
  idempotencyKey: string,
): Promise<Hold> {
  const started = performance.now();
  const asked = {
    idempotencyKey,
    provider: llm.provider.name,
    model: request.model,
    inputTokensBound: request.inputTokensBound,
    maxOutputTokens: request.maxOutputTokens,
    runId: attempt.runId,
    attempt: attempt.attempt,
    ttlMs: llm.deadlineMs + HOLD_MARGIN_MS,
  };
  const hold = await reserveTogether(llm.db, tenantId, asked).finally(() =>
    llm.observe?.budgetCheckSeconds(seconds(started)),
  );
  // Money held once pays for one call, and this key's may have been made.
  if (hold.replayed) throw new AppError("idempotency_conflict", { detail: { reservation_id: hold.id } });
  const facts = factsOf(llm, tenantId, attempt, request.model, hold);
  llm.log.info({ ...facts, estimated_cost_nanousd: String(hold.estimated_cost_nanousd) }, "llm_reserved");
  return hold;
}

/**
 * Ends a hold by what is known of its call. If that cannot be written, what was used is kept on the disk and written
 * later; without that the hold stays, lapses, and still counts.
 */
async function close(llm: Llm, hold: Hold, ending: Ending, facts: CallFacts): Promise<void> {
  const { status, billed } = ending;
  const why = { ...facts, reason: status, ...(ending.error !== undefined && { err: ending.error }) };
  try {
    if (billed === "nothing") {
      await release(llm.db, facts.tenant_id, hold.id, status);
      llm.log.warn(why, "llm_released");
    } else if (billed === "unknown") {
      await presume(llm.db, facts.tenant_id, hold.id, status);
      const presumed = String(hold.estimated_cost_nanousd);
      llm.log.warn({ ...why, presumed_nanousd: presumed }, "llm_presumed");
    } else {
      const answer = { ...billed.facts, simulated: llm.provider.simulated };
      const settled = await settleTogether(llm.db, facts.tenant_id, hold.id, billed.usage, answer);
      const money = {
        cost_nanousd: String(settled.cost_nanousd),
        over_hold_nanousd: String(settled.over_hold_nanousd),
      };
      const over = settled.over_hold_nanousd > 0n;
      if (over) llm.observe?.overHold();
      llm.log[over ? "warn" : "info"]({ ...facts, ...tokensOf(billed.usage), ...money }, "llm_settled");
    }
  } catch (error) {
    const tokens = typeof billed === "string" ? {} : tokensOf(billed.usage);
    const failed = { ...facts, status, ...tokens, err: error };
    if (await isSpooled(llm, hold, ending, facts, error)) llm.log.warn(failed, "llm_settle_spooled");
    else llm.log.error(failed, "llm_close_failed");
  }
}

/** Whether what a call has used is on the disk now, after this error of its settlement. */
async function isSpooled(
  { spool, provider, log }: Llm,
  hold: Hold,
  { billed }: Ending,
  facts: CallFacts,
  error: unknown,
): Promise<boolean> {
  if (spool === undefined || typeof billed === "string" || !mayBeSettledLater(error)) return false;
  const answer = { ...billed.facts, simulated: provider.simulated };
  const settle = { reservationId: hold.id, usage: billed.usage, facts: answer };
  return spool.add(facts.tenant_id, settle).then(
    () => true,
    (err: unknown) => {
      log.error({ ...facts, err }, "llm_spool_failed");
      return false;
    },
  );
}

/** What is absent was not reported, and is not in the line. */
function tokensOf(usage: Usage): Record<string, number | undefined> {
  return {
    input_tokens: usage.inputTokens,
    output_tokens: usage.outputTokens,
    cached_input_tokens: usage.cachedInputTokens,
    cache_write_5m_tokens: usage.cacheWrite5mTokens,
    cache_write_1h_tokens: usage.cacheWrite1hTokens,
    reasoning_tokens: usage.reasoningTokens,
  };
}

/** What every line about a hold says. */
type CallFacts = ReturnType<typeof factsOf>;

function factsOf(llm: Llm, tenantId: string, attempt: Attempt, model: string, hold: Hold) {
  return {
    reservation_id: hold.id,
    tenant_id: tenantId,
    run_id: attempt.runId,
    attempt: attempt.attempt,
    provider: llm.provider.name,
    model,
  };
}

/** What is left for one call, in ms. */
function timeLeft(llm: Llm, attempt: Attempt): number {
  return Math.min(llm.deadlineMs, attempt.deadlineAt - Date.now());
}

function seconds(since: number): number {
  return (performance.now() - since) / 1000;
}
