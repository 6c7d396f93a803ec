// Every field of an error of the server, and whether two errors are the same to whoever reads all of them.
import pg from "pg";

const FIELDS = [
  ...["severity", "code", "message", "detail", "hint", "where", "schema", "table", "column", "dataType"],
  ...["constraint", "routine", "file", "line", "position", "internalPosition", "internalQuery"],
] as const;

/** The fields that the protocol knows, those that are absent left out. */
export function errorFields(error: unknown): Record<string, string> {
  const fields = error as Record<string, unknown>;
  return Object.fromEntries(
    FIELDS.flatMap((name) => (typeof fields[name] === "string" ? [[name, fields[name]]] : [])),
  );
}

/** The error as one text, with what the caller itself gave replaced by a word: what is left must tell nothing. */
export function errorBytes(error: unknown, given: readonly string[] = []): string {
  if (!(error instanceof pg.DatabaseError)) throw new Error(`not an error of the server: ${String(error)}`);
  let text = JSON.stringify(errorFields(error));
  for (const each of given) text = text.replaceAll(each, "<given>");
  return text;
}
