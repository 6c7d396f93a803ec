// The one place where a database error becomes an error of ours. Anything unknown passes untouched: it is a bug.
import pg from "pg";

/** What the shell and the database refuse with: fixed name → SQLSTATE (where SQL raises it) and HTTP status. */
export const ERRORS = {
  rls_enforcement_failed: { sqlstate: "RL101", status: 500 },
  ticket_key_not_found: { sqlstate: "TK101", status: 404 },
  ticket_key_last: { sqlstate: "TK201", status: 409 },
  tenant_not_found: { sqlstate: "TN101", status: 404 },
  tenant_name_taken: { sqlstate: "TN102", status: 409 },
  tenant_invalid: { sqlstate: "TN103", status: 400 },
  budget_exceeded: { sqlstate: "LB101", status: 402 },
  no_price: { sqlstate: "LB102", status: 402 },
  idempotency_conflict: { sqlstate: "LB103", status: 422 },
  reservation_not_found: { sqlstate: "LB104", status: 404 },
  reservation_invalid: { sqlstate: "LB105", status: 400 },
  reservation_closed: { sqlstate: "LB201", status: 409 },
  budget_busy: { sqlstate: "LB301", status: 503 },
  job_run_not_found: { sqlstate: "JB101", status: 404 },
  job_kind_unknown: { sqlstate: "JB102", status: 400 },
  job_queue_full: { sqlstate: "JB103", status: 429 },
  job_input_invalid: { sqlstate: "JB104", status: 422 },
  job_kind_not_enqueueable: { sqlstate: "JB105", status: 403 },
  job_run_fenced: { sqlstate: "JB201", status: 409 },
  job_transition_refused: { sqlstate: "JB202", status: 409 },
  job_cancelled: { sqlstate: "JB203", status: 409 },
  replay_superseded: { sqlstate: "JB204", status: 409 },
  job_not_dead: { sqlstate: "JB205", status: 409 },
  job_ended: { sqlstate: "JB206", status: 409 },
  import_not_found: { sqlstate: "IM101", status: 404 },
  import_invalid: { sqlstate: "IM102", status: 422 },
  import_empty: { sqlstate: "IM103", status: 422 },
  import_closed: { sqlstate: "IM201", status: 409 },
  analysis_not_found: { sqlstate: "NA101", status: 404 },
  analysis_invalid: { sqlstate: "NA102", status: 400 },
  optimistic_lock_failed: { sqlstate: "VR201", status: 409 },
  reason_required: { sqlstate: "OP101", status: 400 },
  argument_invalid: { sqlstate: "OP102", status: 400 },

  unauthorized: { status: 401 },
  invalid_request: { status: 400 },
  unbounded_request: { status: 402 },
  not_found: { status: 404 },
  method_not_allowed: { status: 405 },
  payload_too_large: { status: 413 },
  unsupported_media_type: { status: 415 },
  focus_invalid: { status: 422 },
  cost_source_unreadable: { status: 422 },
  job_timeout: { status: 504 },
  job_transaction_lost: { status: 500 },
  job_handlers_leaked: { status: 503 },
  shutdown: { status: 503 },
  scheduler_deadlock_detected: { status: 503 },
  service_unavailable: { status: 503 },
  internal_error: { status: 500 },
  config_invalid: { status: 500 },
  already_running: { status: 500 },
  data_directory_version: { status: 500 },
  postgres_unsupported: { status: 500 },
  postgres_failed: { status: 500 },
  role_unsafe: { status: 500 },
} as const satisfies Record<string, { sqlstate?: string; status: number }>;

/** The fixed snake_case name of an error; logs, metrics and clients match on it. */
export type ErrorCode = keyof typeof ERRORS;

const CODE_OF_SQLSTATE = new Map<string, ErrorCode>(
  (Object.keys(ERRORS) as ErrorCode[]).flatMap((code) => {
    const sqlstate = sqlstateOf(code);
    return sqlstate === undefined ? [] : [[sqlstate, code]];
  }),
);

/** An error that a person can act on: `code` is its name, `detail` its facts, `hint` what to do. */
export class AppError extends Error {
  readonly code: ErrorCode;
  readonly sqlstate: string | undefined;
  readonly status: number;
  readonly detail: Record<string, unknown>;
  readonly hint: string | undefined;

  constructor(
    code: ErrorCode,
    facts: {
      message?: string;
      detail?: Record<string, unknown>;
      hint?: string | undefined;
      cause?: unknown;
    } = {},
  ) {
    super(facts.message ?? code, facts.cause === undefined ? undefined : { cause: facts.cause });
    this.name = "AppError";
    this.code = code;
    this.sqlstate = sqlstateOf(code);
    this.status = ERRORS[code].status;
    this.detail = facts.detail ?? {};
    this.hint = facts.hint;
  }
}

/** Turns what the database raised on purpose into an `AppError`; every other error comes back as it is. */
export function translate(error: unknown): unknown {
  if (!(error instanceof pg.DatabaseError)) return error;
  const code = isRowSecurityRefusal(error)
    ? "rls_enforcement_failed"
    : CODE_OF_SQLSTATE.get(error.code ?? "");
  if (code === undefined) return error;
  return new AppError(code, {
    detail: code === "rls_enforcement_failed" ? {} : factsOf(error.detail),
    hint: error.hint,
    cause: error,
  });
}

/** Whether a tenant was refused: by `app.enter`, or by a policy that stopped a statement. */
export function isRlsRefusal(error: unknown): error is AppError {
  return error instanceof AppError && error.code === "rls_enforcement_failed";
}

/** 42501 has two meanings and a localised text: the C routine that raised it tells row security from a missing grant. */
function isRowSecurityRefusal(error: pg.DatabaseError): boolean {
  return error.code === "42501" && ["check_enable_rls", "ExecWithCheckOptions"].includes(error.routine ?? "");
}

function sqlstateOf(code: ErrorCode): string | undefined {
  const entry: { sqlstate?: string; status: number } = ERRORS[code];
  return entry.sqlstate;
}

function factsOf(detail: string | undefined): Record<string, unknown> {
  if (detail === undefined) return {};
  try {
    const facts: unknown = JSON.parse(detail);
    return typeof facts === "object" && facts !== null ? { ...facts } : { detail };
  } catch {
    return { detail };
  }
}
