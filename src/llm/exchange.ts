// One request to a provider and its whole answer: how it ended, and what of it is billed.
import { channel } from "node:diagnostics_channel";
import { z } from "zod";
import type { AnswerFacts, Usage } from "../budgets.ts";
import { parseJson } from "../json.ts";

/**
 * How a call ended: `not_sent` for want of time, `redirect` by a 3xx that is not followed, `http_<status>`
 * where the provider answered no completion.
 */
export type CallStatus =
  | "ok"
  | "not_sent"
  | "unreachable"
  | "timeout"
  | "cut"
  | "redirect"
  | "answer_too_large"
  | "usage_missing"
  | `http_${number}`;

/** What the provider counted, and the names it gave. */
export type Billed = { usage: Usage; facts: Omit<AnswerFacts, "simulated"> };

/** The end of a call. It bills `nothing` where that is proven; what is not known is `unknown`. */
export type Ending = {
  status: CallStatus;
  billed: Billed | "nothing" | "unknown";
  response?: Response;
  error?: unknown;
};

/** No completion is longer: 128,000 tokens of 10 bytes are a third of it. */
const ANSWER_BYTES_MAX = 4 * 1024 * 1024;

/** Statuses with which a provider refuses before it works, and so does not bill. */
const UNBILLED = new Set([400, 401, 403, 404, 413, 422, 429]);

/** Errors that undici met while it connected (DNS, TCP, TLS): proof that no byte of the request was sent. */
const whileConnecting = new WeakSet<object>();
channel("undici:client:connectError").subscribe((message) => {
  const { error } = message as { error?: unknown };
  if (typeof error === "object" && error !== null) whileConnecting.add(error);
});

/**
 * Sends, and reads the answer to its end, within `timeoutMs`, unless `init.signal` cuts it. Never throws: a
 * hold waits for how it ends.
 */
export async function exchange(
  send: typeof fetch,
  input: string | URL | Request,
  init: RequestInit,
  timeoutMs: number,
): Promise<Ending> {
  if (timeoutMs <= 0 || init.signal?.aborted) return { status: "not_sent", billed: "nothing" };
  const deadline = AbortSignal.timeout(Math.ceil(timeoutMs));
  const signal = init.signal ? AbortSignal.any([deadline, init.signal]) : deadline;
  try {
    const response = await send(input, { ...init, redirect: "manual", signal });
    const bytes = await readAnswer(response);
    if (bytes === undefined) return { status: "answer_too_large", billed: "unknown" };
    return { ...judge(response.status, bytes), response: whole(response, bytes) };
  } catch (error) {
    if (isUnsent(error)) return { status: "unreachable", billed: "nothing", error };
    return { status: deadline.aborted ? "timeout" : "cut", billed: "unknown", error };
  }
}

/** Nothing left this process: no connection was made, or the port is one that `fetch` blocks. */
function isUnsent(error: unknown): boolean {
  const cause: unknown = error instanceof Error ? error.cause : undefined;
  return cause instanceof Error && (whileConnecting.has(cause) || cause.message === "bad port");
}

/** The body; undefined when it is longer than any completion. */
async function readAnswer(response: Response): Promise<Uint8Array<ArrayBuffer> | undefined> {
  const chunks: Uint8Array[] = [];
  let length = 0;
  for await (const chunk of response.body ?? []) {
    length += chunk.byteLength;
    if (length > ANSWER_BYTES_MAX) return undefined;
    chunks.push(chunk);
  }
  return Buffer.concat(chunks, length);
}

/** The same answer, once more: its body has been read, and is no longer compressed. */
function whole(response: Response, bytes: Uint8Array<ArrayBuffer>): Response {
  const headers = new Headers(response.headers);
  headers.delete("content-encoding");
  headers.delete("content-length");
  const { status, statusText } = response;
  return new Response(bytes.byteLength === 0 ? null : bytes, { status, statusText, headers });
}

/** More than a hundred million is no count of tokens. */
const TOKENS_MAX = 100_000_000;
const tokens = z.int().min(0).max(TOKENS_MAX);
/** A part of another count, so the whole is billed without it. */
const count = tokens.nullish().catch(null);

/** What an OpenAI-compatible provider reports. A zero is a zero; a missing count is missing. */
const Completion = z.object({
  id: z.string().nullish().catch(null),
  model: z.string().nullish().catch(null),
  choices: z
    .array(z.object({ finish_reason: z.string().nullish().catch(null) }))
    .nullish()
    .catch(null),
  usage: z.object({
    prompt_tokens: tokens,
    completion_tokens: tokens,
    total_tokens: tokens.nullish().catch(null),
    prompt_tokens_details: z
      .object({ cached_tokens: count, cache_write_tokens: count })
      .nullish()
      .catch(null),
    completion_tokens_details: z.object({ reasoning_tokens: count }).nullish().catch(null),
    // DeepSeek's name, and those of Anthropic, which gateways hand on.
    prompt_cache_hit_tokens: count,
    cache_read_input_tokens: count,
    cache_creation_input_tokens: count,
    cache_creation: z
      .object({ ephemeral_5m_input_tokens: count, ephemeral_1h_input_tokens: count })
      .nullish()
      .catch(null),
  }),
});

function judge(httpStatus: number, bytes: Uint8Array): Pick<Ending, "status" | "billed"> {
  if (httpStatus >= 300 && httpStatus <= 399) return { status: "redirect", billed: "nothing" };
  if (httpStatus < 200 || httpStatus > 299) {
    return { status: `http_${httpStatus}`, billed: UNBILLED.has(httpStatus) ? "nothing" : "unknown" };
  }
  const parsed = Completion.safeParse(parseJson(new TextDecoder().decode(bytes)));
  if (!parsed.success) return { status: "usage_missing", billed: "unknown" };
  const { id, model, choices, usage } = parsed.data;
  const facts = {
    providerRequestId: plain(id),
    responseModel: plain(model),
    finishReason: plain(choices?.[0]?.finish_reason),
  };
  return { status: "ok", billed: { usage: usageOf(usage), facts } };
}

/**
 * Tokens as the bill counts them. `prompt_tokens` includes what was read from a cache or written to one; where
 * Anthropic's own counts are more than it, it leaves them out, as Anthropic does. Where a provider leaves
 * reasoning out of `completion_tokens`, the total has it, or their sum. What cannot be true (more cached than
 * sent) is not believed: it is billed as plain input.
 */
function usageOf(usage: z.infer<typeof Completion>["usage"]): Usage {
  const cache = cacheOf(usage);
  const reasoning = usage.completion_tokens_details?.reasoning_tokens ?? 0;
  const apart = cache.anthropic > usage.prompt_tokens ? cache.anthropic : 0;
  const inputTokens = Math.min(usage.prompt_tokens + apart, TOKENS_MAX);
  const written1h = Math.min(cache.written1h, inputTokens);
  const written5m = Math.min(cache.written5m, inputTokens - written1h);
  const completion = usage.completion_tokens + (reasoning > usage.completion_tokens ? reasoning : 0);
  const outputTokens = Math.min(Math.max(completion, (usage.total_tokens ?? 0) - inputTokens), TOKENS_MAX);
  return {
    inputTokens,
    outputTokens,
    cachedInputTokens: cache.read <= inputTokens - written1h - written5m ? cache.read : 0,
    ...(written5m > 0 && { cacheWrite5mTokens: written5m }),
    ...(written1h > 0 && { cacheWrite1hTokens: written1h }),
    ...(reasoning > 0 && { reasoningTokens: Math.min(reasoning, outputTokens) }),
  };
}

/** What was read from a cache and written to it, under each of the names; `anthropic` is the sum of theirs. */
function cacheOf(usage: z.infer<typeof Completion>["usage"]) {
  const details = usage.prompt_tokens_details;
  const read = usage.cache_read_input_tokens ?? 0;
  const written1h = usage.cache_creation?.ephemeral_1h_input_tokens ?? 0;
  const fiveMinutes = usage.cache_creation?.ephemeral_5m_input_tokens ?? 0;
  const created = Math.max(usage.cache_creation_input_tokens ?? 0, fiveMinutes + written1h);
  return {
    read: Math.max(read, details?.cached_tokens ?? 0, usage.prompt_cache_hit_tokens ?? 0),
    written5m: Math.max(created, details?.cache_write_tokens ?? 0) - written1h,
    written1h,
    anthropic: read + created,
  };
}

/** A name from outside, fit for a column: printable, at most 200 characters; null when nothing is left. */
function plain(text: string | null | undefined): string | null {
  return text?.replaceAll(/\p{C}/gu, "").slice(0, 200).trim() || null;
}
