// What a process checks before it serves: a login that row security binds, a server that enforces it, and a key whose
// tickets open it.
import { randomUUID } from "node:crypto";
import { z } from "zod";
import type { Config } from "./config.ts";
import { call, type Db, systemCall } from "./db.ts";
import { AppError } from "./errors.ts";
import type { TicketBinding } from "./tickets.ts";

/** Below these, a hidden row can leak through ON CONFLICT (CVE-2026-120154); a major version that is missing is unknown. */
const VERSION_FLOORS: Readonly<Record<number, number>> = {
  15: 150_020,
  16: 160_016,
  17: 170_012,
  18: 180_007,
};

const Login = z.object({
  name: z.string(),
  superuser: z.boolean(),
  bypasses_row_security: z.boolean(),
  owner: z.boolean(),
  version_num: z.coerce.number(),
  version: z.string(),
});

/**
 * Throws `role_unsafe` when the login is a superuser, bypasses row security or is the owner: isolation would not bind
 * it; and, outside development, when the server is older than the first version that enforces row security everywhere.
 */
export async function refuseUnsafeLogin(
  db: Pick<Db, "pool">,
  environment: Config["environment"],
): Promise<void> {
  // What it may become counts as well as what it is.
  const [login] = await systemCall(
    db,
    `select session_user::text as name, bool_or(r.rolsuper) as superuser,
            bool_or(r.rolbypassrls) as bypasses_row_security,
            bool_or(r.rolname in ('holdfast_owner', 'holdfast_system')) as owner,
            current_setting('server_version_num') as version_num, current_setting('server_version') as version
     from pg_roles as r where pg_has_role(session_user, r.oid, 'member')`,
    [],
    Login,
  );
  if (login === undefined) return;
  if (login.superuser || login.bypasses_row_security || login.owner) {
    throw new AppError("role_unsafe", {
      message: `The login ${login.name} is above row security, so tenants would not be kept apart.`,
      detail: { login: login.name },
      hint: "Connect as holdfast_service (npm run api) or holdfast_worker (npm run worker); see the README.",
    });
  }
  const floor = VERSION_FLOORS[Math.floor(login.version_num / 10_000)];
  if (environment !== "development" && (floor === undefined || login.version_num < floor)) {
    throw new AppError("role_unsafe", {
      message: `PostgreSQL ${login.version} can show a hidden row of another tenant.`,
      detail: { version: login.version },
      hint: "Use PostgreSQL 15.20, 16.16, 17.12, 18.7 or a later release of these.",
    });
  }
}

const SessionUser = z.object({ name: z.string() });

/**
 * Throws `role_unsafe` unless the login is `wanted`, that of the part: the worker's and people's reach all tenants, and
 * the endpoint's may not do the worker's work.
 */
export async function refuseOtherLogin(
  db: Pick<Db, "pool">,
  wanted: string,
  variable = "DATABASE_URL",
): Promise<void> {
  const [login] = await systemCall(db, "select session_user::text as name", [], SessionUser);
  if (login?.name === wanted) return;
  throw new AppError("role_unsafe", {
    message: `This part must connect as ${wanted}, and ${variable} connects as ${login?.name}.`,
    detail: { login: login?.name, wanted },
    hint:
      `Set ${variable}: npm run api and a worker's tasks connect as holdfast_service, which reaches a tenant by a ` +
      "ticket alone; " +
      "npm run worker and npm run import connect as holdfast_worker.",
  });
}

const Session = z.object({ name: z.string(), missing: z.array(z.string()) });

/**
 * Throws `role_unsafe` when the login has lost what sql/roles.sql sets on it: row security that is off until a tenant is
 * entered, and limits of time. The shell asks for none of these itself, for a pooler refuses that.
 */
export async function refuseLostSettings(db: Pick<Db, "pool">): Promise<void> {
  const [session] = await systemCall(
    db,
    `select session_user::text as name, coalesce(array_agg(s.name order by s.name), '{}') as missing
     from pg_settings as s
     where (s.name = 'row_security' and s.setting <> 'off')
       or (s.name in ('statement_timeout', 'idle_in_transaction_session_timeout') and s.setting = '0')`,
    [],
    Session,
  );
  if (session === undefined || session.missing.length === 0) return;
  throw new AppError("role_unsafe", {
    message: `The login ${session.name} lacks its settings: ${session.missing.join(", ")}.`,
    detail: { login: session.name, settings: session.missing },
    hint: "Let an administrator run sql/roles.sql again; select * from ops.doctor() says what else is amiss.",
  });
}

/** Whether an error says that the server answers but lacks a function or its schema: it is older than this program. */
export function isUnmigrated(error: unknown): boolean {
  return ["42883", "3F000"].includes((error as { code?: string }).code ?? "");
}

const Binding = z.object({ binding: z.enum(["backend", "none"]).nullable() });
const Checked = z.object({ valid: z.boolean(), direct: z.boolean() });

/** What a person does about a pooler, before anything else. */
export const CONNECT_DIRECTLY =
  "Connect to PostgreSQL itself (npm run worker and npm run db:migrate must: they listen or lock)";

/**
 * Makes sure that the database lets in tickets of this process, and answers what they are to name, for `Db`: the backend
 * wherever this process can know it, whatever the key allows. Throws `config_invalid` when the database has no such key
 * in use, when it is another one there, when one of the two clocks is wrong, when a pooler stands before a database that
 * wants tickets bound to backends, and when it is not migrated.
 */
export async function refuseWrongTicketKey(given: Pick<Db, "pool" | "ticketKey">): Promise<TicketBinding> {
  const { kid } = given.ticketKey;
  const asked = await systemCall(given, "select app.ticket_binding($1) as binding", [kid], Binding).catch(
    unmigrated,
  );
  const allowed = asked[0]?.binding;
  if (allowed == null) throw noSuchKey(kid);

  // A pooler greets with a number of its own, which the ticket then names.
  const bound = await ticketTried(given, "backend");
  if (!bound?.direct && allowed === "backend") throw behindPooler(kid);
  const ticketBinding = bound?.direct ? "backend" : "none";
  const tried = bound?.direct ? bound : await ticketTried(given, "none");
  if (!tried?.valid) throw wrongKey(kid);
  return ticketBinding;
}

/** Whether a ticket would be let in, and names the backend that it reached. */
async function ticketTried(
  given: Pick<Db, "pool" | "ticketKey">,
  ticketBinding: TicketBinding,
): Promise<z.infer<typeof Checked> | undefined> {
  const text = `select app.ticket_check($2) as valid,
      split_part($2, '.', 4) = pg_backend_pid()::text as direct, $1::uuid as nobody`;
  return (await call({ ...given, ticketBinding }, randomUUID(), text, [], Checked))[0];
}

function noSuchKey(kid: number): AppError {
  return new AppError("config_invalid", {
    message: `the database has no ticket key in use with number ${kid} (TICKET_KEY_ID): it is unknown or retired`,
    detail: { ticket_key_id: kid },
    hint: "Set TICKET_KEY and TICKET_KEY_ID as for npm run db:migrate; select * from ops.ticket_keys lists the keys.",
  });
}

function behindPooler(kid: number): AppError {
  return new AppError("config_invalid", {
    message: `DATABASE_URL leads through a connection pooler, and tickets of key ${kid} must name their backend`,
    detail: { ticket_key_id: kid },
    hint:
      `${CONNECT_DIRECTLY}, or let the endpoint's tickets name no backend, in psql as holdfast_ops: ` +
      `select * from ops.ticket_key_set(${kid}, binding => 'none', reason => '…');`,
  });
}

function wrongKey(kid: number): AppError {
  return new AppError("config_invalid", {
    message: `the database does not accept tickets of TICKET_KEY as number ${kid} (TICKET_KEY_ID)`,
    detail: { ticket_key_id: kid },
    hint:
      "Set both as for npm run db:migrate. If they are the same, see that the clocks of this host and of the " +
      "database are not more than 10 s apart.",
  });
}

function unmigrated(error: unknown): never {
  if (!isUnmigrated(error)) throw error;
  const hint = "Run: npm run db:migrate";
  throw new AppError("config_invalid", {
    message: `The database is empty, or older than this program. ${hint}`,
    hint,
    cause: error,
  });
}
