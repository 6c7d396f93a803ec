// What a process checks before it serves: a login that row security binds, and a server that enforces it.
import { z } from "zod";
import type { Config } from "./config.ts";
import { type Db, systemCall } from "./db.ts";
import { AppError } from "./errors.ts";

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
