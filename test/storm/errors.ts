// Which errors a storm brings with it.
import pg from "pg";

/** The server is stopping, starting, or gone; or a connection was cut. */
export function isAway(error: unknown): boolean {
  if (!(error instanceof Error)) return false;
  const code = String((error as { code?: unknown }).code ?? "");
  return (
    /^(57P0[1-5]|08...|ECONN\w+|EPIPE|ENOENT)$/.test(code) ||
    /Connection terminated|connection timeout|Client has encountered/i.test(error.message)
  );
}

/** An error by its SQLSTATE, or its code, and its message. */
export function nameOf(error: unknown): string {
  if (!(error instanceof Error)) return String(error).slice(0, 200);
  const code = (error as { code?: string }).code ?? error.name;
  const where = error instanceof pg.DatabaseError ? ` (${error.where ?? ""})` : "";
  return `${code} ${error.message}${where}`.replaceAll(/\s+/g, " ").slice(0, 300);
}
