// What a person reads when the program cannot go on.
import pg from "pg";
import { AppError } from "./errors.ts";
import { CONNECT_DIRECTLY } from "./login_check.ts";
import { isDatabaseAway } from "./problem.ts";

/**
 * Says why, and makes the exit code 1. What a person can act on is said in words; anything else is a bug,
 * with its stack.
 */
export function fail(error: unknown): void {
  process.exitCode = 1;
  const known = namedError(error);
  if (known instanceof AppError) {
    const hint = known.hint === undefined || known.message.endsWith(known.hint) ? "" : `${known.hint}\n`;
    const said = known.message === known.code ? known.code : `${known.code}: ${known.message}`;
    const facts =
      known.message === known.code && Object.keys(known.detail).length > 0
        ? ` ${JSON.stringify(known.detail)}`
        : "";
    process.stderr.write(`${said}${facts}\n${hint}`);
  } else {
    process.stderr.write(`${known instanceof Error ? (known.stack ?? known.message) : String(known)}\n`);
  }
}

/** What comes from outside and has no name of ours yet. */
function namedError(error: unknown): unknown {
  if (error instanceof Error && "code" in error && error.code === "EADDRINUSE") return portTaken(error);
  if (isWrongLogin(error)) return wrongLogin(error);
  if (isPooler(error)) return behindPooler(error);
  return isRefusedByDatabase(error) ? noDatabase(error) : error;
}

/**
 * It may not do what its part does, or not become holdfast_owner, which a connection asks for by its options.
 */
function isWrongLogin(error: unknown): error is pg.DatabaseError {
  if (!(error instanceof pg.DatabaseError)) return false;
  return error.code === "42501" || (error.code === "22023" && error.message.includes('"holdfast_owner"'));
}

/** Only a pooler refuses a setting that PostgreSQL knows, and the queue and a migration begin with some. */
function isPooler(error: unknown): error is pg.DatabaseError {
  return (
    error instanceof pg.DatabaseError &&
    error.code === "08P01" &&
    error.message.startsWith("unsupported startup parameter")
  );
}

/** Away, or it does not know the login, the password or the database: class 28, 3D000. */
function isRefusedByDatabase(error: unknown): error is Error & { code?: string } {
  return (
    isDatabaseAway(error) ||
    (error instanceof Error && /^(28|3D)...$/.test(String((error as { code?: string }).code)))
  );
}

/** A port that is taken is the operator's to change. */
function portTaken(error: Error): AppError {
  return new AppError("config_invalid", {
    message: `the address of the endpoint is taken: ${error.message}`,
    hint: "Set HTTP_PORT.",
  });
}

function wrongLogin(error: pg.DatabaseError): AppError {
  return new AppError("config_invalid", {
    message: `the login of DATABASE_URL may not do this: ${error.message}`,
    hint:
      "npm run db:migrate wants holdfast_admin, npm run api holdfast_service, " +
      "npm run worker and npm run import holdfast_worker; sql/roles.sql makes them.",
    cause: error,
  });
}

function behindPooler(error: pg.DatabaseError): AppError {
  return new AppError("config_invalid", {
    message: `DATABASE_URL leads through a connection pooler, which refuses a setting: ${error.message}`,
    hint: `${CONNECT_DIRECTLY}. The endpoint may stand behind a pooler; see the README.`,
    cause: error,
  });
}

function noDatabase(error: Error & { code?: string }): AppError {
  return new AppError("service_unavailable", {
    message: `the database cannot be used: ${error.message || error.code}`,
    hint: "See that it runs, and that DATABASE_URL has the host, port, login, password and database of it.",
    cause: error,
  });
}
