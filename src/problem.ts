// Errors as callers see them: application/problem+json (RFC 9457), and nothing that is none of their
// business.
import pg from "pg";
import { AppError, type ErrorCode, isRlsRefusal } from "./errors.ts";
import { usdOf } from "./usd.ts";

/**
 * An answer that says no. `body` is the problem document; `code` is its fixed name, for the log and the
 * metrics.
 */
export type Problem = {
  status: number;
  code: ErrorCode;
  headers: Record<string, string>;
  body: Record<string, unknown>;
};

const RETRY_AFTER_SECONDS = 2;
/** The wait for a locked budget is over when a statement is. */
const BUSY_RETRY_AFTER_SECONDS = 1;

/** Members of the document that no fact may replace. */
const MEMBERS = new Set(["type", "title", "status", "code", "detail", "instance", "hint", "error"]);

/** What Fastify refuses by itself. Its other refusals of a request are invalid_request. */
const REFUSED_BY_FASTIFY: Record<string, AppError> = {
  FST_ERR_CTP_INVALID_MEDIA_TYPE: new AppError("unsupported_media_type", { hint: "Send application/json." }),
  FST_ERR_CTP_BODY_TOO_LARGE: new AppError("payload_too_large"),
  FST_ERR_HANDLER_TIMEOUT: new AppError("service_unavailable"),
  FST_ERR_CTP_INVALID_JSON_BODY: new AppError("invalid_request", { message: "The body is not valid JSON." }),
  FST_ERR_CTP_EMPTY_JSON_BODY: new AppError("invalid_request", {
    message: "The body is empty; send {} or no type.",
  }),
  FST_ERR_BAD_URL: new AppError("invalid_request", { message: "The address is not well formed." }),
};

/** The database is away, full, or gave up: it may be there for the next try. */
const AWAY_SQLSTATE = /^(08...|53...|57P0[1-5]|57014|40001|40P01|55P03|25006)$/;
const AWAY_SYSTEM = new Set([
  "ECONNREFUSED",
  "ECONNRESET",
  "ETIMEDOUT",
  "EPIPE",
  "ENOTFOUND",
  "EAI_AGAIN",
  "EHOSTUNREACH",
]);
const AWAY_MESSAGE =
  /^(timeout exceeded when trying to connect|connection terminated|cannot use a pool after)/i;

/**
 * The problem that a caller gets for any error; `requestId` leads from it to the log. What is unknown says
 * nothing.
 */
export function problemOf(error: unknown, requestId: string): Problem {
  const shown = edgeError(error);
  const { code, status } = shown;
  const body: Record<string, unknown> = {
    type: `urn:holdfast:problem:${code}`,
    title: titleOf(code),
    status,
    code,
    ...(shown.message === code ? {} : { detail: shown.message }),
    instance: requestId,
    ...(shown.hint === undefined ? {} : { hint: shown.hint }),
  };
  for (const [name, fact] of Object.entries(shown.detail))
    if (!MEMBERS.has(name)) body[name] = plain(name, fact);
  if (status === 402) body["error"] = quotaError(shown);
  return { status, code, headers: headersOf(shown), body };
}

/**
 * The same refusal as OpenAI's clients read it: they raise an error of their own for it, and do not send again. Amounts
 * in `meta` are in dollars, and exactly in nano-USD beside them.
 */
function quotaError({ code, message, detail, hint }: AppError): Record<string, unknown> {
  const meta: Record<string, unknown> = {};
  for (const [name, fact] of Object.entries(detail)) {
    if (MEMBERS.has(name)) continue;
    meta[name] = plain(name, fact);
    if (/_nanousd$/.test(name) && /^-?\d+$/.test(String(fact))) {
      meta[name.replace(/_nanousd$/, "")] = usdOf(BigInt(String(fact)));
    }
  }
  const said = message === code ? titleOf(code) : message.replace(/\.$/, "");
  const text = hint === undefined ? `${said}.` : `${said}. ${hint}`;
  return { type: "insufficient_quota", code, message: text, meta };
}

/**
 * The error as the edge tells it: who brought a ticket or a tenant that was refused is a caller to be refused; a
 * statement that brought none is a bug, and a bug is no one's business.
 */
function edgeError(error: unknown): AppError {
  if (isRlsRefusal(error)) {
    return new AppError(isStoppedByPolicy(error.cause) ? "internal_error" : "unauthorized");
  }
  if (error instanceof AppError) {
    return error.status === 500 ? new AppError("internal_error") : error;
  }
  if (isDatabaseAway(error)) return new AppError("service_unavailable");
  const { code, statusCode } = (error ?? {}) as { code?: string; statusCode?: number };
  const refused = REFUSED_BY_FASTIFY[code ?? ""];
  if (refused !== undefined) return refused;
  const isRefusal = statusCode !== undefined && statusCode >= 400 && statusCode < 500;
  return new AppError(isRefusal ? "invalid_request" : "internal_error");
}

/** Whether a row security policy stopped a statement, and not `app.enter` its ticket. */
function isStoppedByPolicy(cause: unknown): boolean {
  return cause instanceof pg.DatabaseError && cause.code === "42501";
}

/** Whether an error says that the database cannot be used now: it is away, full, or gave up. */
export function isDatabaseAway(error: unknown): boolean {
  if (!(error instanceof Error)) return false;
  if (error.name === "TimeoutError") return true;
  const code = "code" in error ? String(error.code) : "";
  return AWAY_SYSTEM.has(code) || AWAY_SQLSTATE.test(code) || AWAY_MESSAGE.test(error.message);
}

/** When to come again is said only where waiting can help: a budget that is spent stays so until its period ends. */
function headersOf({ code, status, detail }: AppError): Record<string, string> {
  const headers: Record<string, string> = { "content-type": "application/problem+json" };
  const waits = status === 503 || status === 429 || detail["reason"] === "in_flight";
  const seconds = code === "budget_busy" ? BUSY_RETRY_AFTER_SECONDS : RETRY_AFTER_SECONDS;
  if (waits) headers["retry-after"] = String(seconds);
  if (code === "unauthorized") headers["www-authenticate"] = 'Bearer realm="holdfast", error="invalid_token"';
  return headers;
}

/** JSON numbers lose the end of a large amount, so money is text everywhere; a period that never ends has no end. */
function plain(name: string, fact: unknown): unknown {
  if (name === "period_end" && typeof fact === "string") return momentOf(fact);
  return name.endsWith("_nanousd") && typeof fact === "number" ? String(fact) : fact;
}

function momentOf(text: string): string | null {
  const at = Date.parse(text);
  return Number.isNaN(at) ? null : new Date(at).toISOString();
}

function titleOf(code: string): string {
  const words = code.replaceAll("_", " ");
  return words.charAt(0).toUpperCase() + words.slice(1);
}
