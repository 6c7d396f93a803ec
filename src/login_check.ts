// What a process checks before it serves: a login that row security binds, a server that enforces it, and a key whose
// tickets open it.
import { randomUUID } from "node:crypto";
import { z } from "zod";
import type { Config } from "./config.ts";
import { type Db, systemCall } from "./db.ts";
import { AppError } from "./errors.ts";
import { mintTicket } from "./tickets.ts";

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

/** Whether an error says that the server answers but lacks a function or its schema: it is older than this program. */
export function isUnmigrated(error: unknown): boolean {
  return ["42883", "3F000"].includes((error as { code?: string }).code ?? "");
}

/**
 * Throws `config_invalid` when the database would not let in a ticket of this process: its key is another one there, or
 * one of the two clocks is wrong; also when the database is not migrated.
 */
export async function refuseWrongTicketKey(db: Db): Promise<void> {
  const ticket = mintTicket(db.ticketKey, randomUUID(), 0);
  const [checked] = await systemCall(
    db,
    "select app.ticket_check($1) as valid",
    [ticket],
    z.object({ valid: z.boolean() }),
  ).catch(unmigrated);
  if (checked?.valid === true) return;
  throw new AppError("config_invalid", {
    message: `the database does not accept tickets of TICKET_KEY as number ${db.ticketKey.kid} (TICKET_KEY_ID)`,
    detail: { ticket_key_id: db.ticketKey.kid },
    hint:
      "Set both as for npm run db:migrate. If they are the same, see that the clocks of this host and of the " +
      "database are not more than 30 s apart.",
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
