// Errors as callers see them: application/problem+json (RFC 9457), and nothing that is none of their
// business.
import pg from "pg";
import { AppError, type ErrorCode, isRlsRefusal } from "./errors.ts";

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

/** Members of the document that no fact may replace. */
const MEMBERS = new Set(["type", "title", "status", "code", "detail", "instance", "hint"]);

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
  return { status, code, headers: headersOf(code, status), body };
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

function headersOf(code: ErrorCode, status: number): Record<string, string> {
  const headers: Record<string, string> = { "content-type": "application/problem+json" };
  if (status === 503 || status === 429) headers["retry-after"] = String(RETRY_AFTER_SECONDS);
  if (code === "unauthorized") headers["www-authenticate"] = 'Bearer realm="holdfast", error="invalid_token"';
  return headers;
}

/** JSON numbers lose the end of a large amount, so money is text everywhere. */
function plain(name: string, fact: unknown): unknown {
  return name.endsWith("_nanousd") && typeof fact === "number" ? String(fact) : fact;
}

function titleOf(code: string): string {
  const words = code.replaceAll("_", " ");
  return words.charAt(0).toUpperCase() + words.slice(1);
}
