// Takes a cost file into the database: batches under an import that nobody sees, then one step that shows it.
import { createHash } from "node:crypto";
import { basename } from "node:path";
import { z } from "zod";
import { call, type Db } from "./db.ts";
import { AppError } from "./errors.ts";
import { type Batch, readFocus } from "./focus.ts";
import type { Log } from "./log.ts";

/** What to import. */
export type ImportRequest = {
  path: string;
  /**
   * Where files of this kind come from. A file replaces the billing periods of its own source, so twice is
   * once.
   */
  source: string;
  /** Called after each batch with the rows stored so far, and the bytes of the file that were read for them. */
  onProgress?: ((rows: number, bytes: number) => void) | undefined;
  /** Gives up between batches, and in the middle of one. */
  signal?: AbortSignal | undefined;
  /** Hears `import_started`, then `import_published` or `import_failed`. */
  log?: Log | undefined;
};

/**
 * A published import. `flags` counts rows per data-quality flag; `periods` are the billing periods it now
 * stands for; `replacedRows` were seen in these periods before, and came with `replacedFiles`. `digest` is the SHA-256
 * of the bytes that were read, in hex.
 */
export type Imported = {
  importId: string;
  digest: string;
  rows: number;
  flaggedRows: number;
  flags: Record<string, number>;
  periods: number;
  replacedRows: number;
  replacedFiles: string[];
};

/** The source of a file that was given none. */
export const DEFAULT_SOURCE = "import";

/** Summing up a file is the one long statement of an import. */
const ROLL_UP_TIMEOUT_MS = 600_000;

/** An import under way, the rows of it that are stored, and the bytes of its file that were read. */
type Importing = {
  db: Db;
  tenantId: string;
  importId: string;
  request: ImportRequest;
  stored: number;
  read: Reading;
};

/** What was read of a file: how many bytes, and the digest of them. */
class Reading {
  bytes = 0;
  readonly #hash = createHash("sha256");

  add(chunk: Buffer): void {
    this.bytes += chunk.length;
    this.#hash.update(chunk);
  }

  /** Once, when all was read. */
  digest(): string {
    return this.#hash.digest("hex");
  }
}

/**
 * Imports a FOCUS file for a tenant: a batch is read while the one before is stored; then the import is
 * summed up and published. Throws `focus_invalid` with file, line and column, or what the database raised:
 * the import is then marked failed with that reason, and what the tenant saw before stays as it was.
 */
export async function importFocus(db: Db, tenantId: string, request: ImportRequest): Promise<Imported> {
  const read = new Reading();
  const batches = readFocus(request.path, (chunk) => read.add(chunk));
  try {
    // A file that is refused at its first batch leaves a failed import too, for people to see.
    const [first] = await Promise.allSettled([batches.next()]);
    const version = first.status === "fulfilled" ? first.value.value?.version : undefined;
    const importId = await start(db, tenantId, request, version ?? "unknown");
    return await take({ db, tenantId, importId, request, stored: 0, read }, first, batches);
  } finally {
    await batches.return(undefined);
  }
}

/** From the first batch to the end: published, or failed with the reason. */
async function take(
  importing: Importing,
  first: PromiseSettledResult<IteratorResult<Batch, undefined>>,
  rest: AsyncIterable<Batch>,
): Promise<Imported> {
  say(importing, "import_started");
  try {
    if (first.status === "rejected") throw first.reason;
    await load(importing, first.value.value, rest);
    await rollUp(importing);
    const imported = await publish(importing);
    say(importing, "import_published", { replaced_rows: imported.replacedRows });
    return imported;
  } catch (error) {
    say(importing, "import_failed", { code: reasonOf(error, importing.request)["code"] });
    await fail(importing, error).catch(() => {}); // the first error tells more; the sweep ends what is left
    throw error;
  }
}

/**
 * Reads a file to its end, as an import would, and stores nothing. Answers its rows. Throws `focus_invalid`
 * with file, line and column.
 */
export async function checkFocus({
  path,
  onProgress,
  signal,
}: Pick<ImportRequest, "path" | "signal"> & { onProgress?: (rows: number) => void }): Promise<number> {
  let checked = 0;
  for await (const { rows } of readFocus(path)) {
    signal?.throwIfAborted();
    checked += rows.length;
    onProgress?.(checked);
  }
  return checked;
}

/** What was imported for whom, as the user named it. */
export type Named = { file: string; tenant: string; source: string };

/** What a person reads of an import: the rows, and which rows are seen no more because of them. */
export function importSummary({ file, tenant }: Named, imported: Imported): string {
  const { rows, flaggedRows, replacedRows, replacedFiles } = imported;
  const done = `Imported ${rows} rows for ${tenant}, ${flaggedRows} of them with a data-quality flag`;
  if (replacedRows === 0) return `${done}.`;
  const names = replacedFiles.slice(0, NAMED_FILES).join(", ");
  const more = replacedFiles.length > NAMED_FILES ? ` and ${replacedFiles.length - NAMED_FILES} more` : "";
  // A file that replaces itself is one that was sent again.
  const others = replacedFiles.some((name) => name !== basename(file));
  const hint = others ? " (same source and month: use --source to keep both)" : "";
  return `${done}; they replace ${replacedRows} rows of ${names}${more}${hint}.`;
}

/** The same as one JSON document. */
export function importJson({ file, tenant, source }: Named, imported: Imported): string {
  const { importId, rows, flaggedRows, flags, periods, replacedRows, replacedFiles } = imported;
  return JSON.stringify({
    tenant,
    import_id: importId,
    source,
    file: basename(file),
    rows,
    flagged_rows: flaggedRows,
    flags,
    periods,
    replaced_rows: replacedRows,
    replaced_files: replacedFiles,
  });
}

const NAMED_FILES = 3;

/** One step of an import, for the log. */
function say(
  { tenantId, importId, request, stored }: Importing,
  step: "import_started" | "import_published" | "import_failed",
  facts: Record<string, unknown> = {},
): void {
  const { source, path } = request;
  const level = step === "import_failed" ? "warn" : "info";
  const about = { tenant_id: tenantId, import_id: importId, source, file: basename(path), rows: stored };
  request.log?.[level]({ ...about, ...facts }, step);
}

/** Stores batch after batch, each in its own transaction; reading is at most one batch ahead. */
async function load(
  importing: Importing,
  first: Batch | undefined,
  rest: AsyncIterable<Batch>,
): Promise<void> {
  const store = (batch: Batch) => {
    const storing = add(importing, batch.rows).then((rows) => {
      importing.stored += rows;
      importing.request.onProgress?.(importing.stored, importing.read.bytes);
    });
    storing.catch(() => {}); // it may fail while the next batch is read; it is awaited after that
    return storing;
  };
  let storing = first === undefined ? Promise.resolve() : store(first);
  try {
    for await (const batch of rest) {
      await storing;
      storing = store(batch);
    }
    await storing;
  } finally {
    await storing.catch(() => {}); // nothing of this import is under way when the caller marks it failed
  }
}

async function start(db: Db, tenantId: string, request: ImportRequest, version: string): Promise<string> {
  const text = `select app.cost_import_start(
    $1, $2, source => $3, file_name => $4, focus_version => $5) as id`;
  const values = [request.source, basename(request.path), version];
  const [row] = await call(db, tenantId, text, values, z.object({ id: z.uuid() }), {
    signal: request.signal,
  });
  return row!.id;
}

async function add({ db, tenantId, importId, request }: Importing, rows: string[]): Promise<number> {
  const text = `select app.cost_import_add($1, $2, import_id => $3, rows => $4) as rows`;
  const [row] = await call(db, tenantId, text, [importId, rows], z.object({ rows: z.int() }), {
    signal: request.signal,
  });
  return row!.rows;
}

async function rollUp({ db, tenantId, importId, request }: Importing): Promise<void> {
  const text = `select app.cost_import_roll_up($1, $2, import_id => $3) as days`;
  await call(db, tenantId, text, [importId], z.object({ days: z.int() }), {
    signal: request.signal,
    timeoutMs: ROLL_UP_TIMEOUT_MS,
  });
}

const Published = z.object({
  line_count: z.coerce.number(),
  flagged_count: z.coerce.number(),
  flags: z.record(z.string(), z.int()),
  period_count: z.int(),
  replaced_lines: z.coerce.number(),
  replaced_files: z.array(z.string()),
});

async function publish({ db, tenantId, importId, request, read }: Importing): Promise<Imported> {
  const text = `select line_count, flagged_count, flags, period_count, replaced_lines, replaced_files
    from app.cost_import_publish($1, $2, import_id => $3)`;
  const [row] = await call(db, tenantId, text, [importId], Published, { signal: request.signal });
  return {
    importId,
    digest: read.digest(),
    rows: row!.line_count,
    flaggedRows: row!.flagged_count,
    flags: row!.flags,
    periods: row!.period_count,
    replacedRows: row!.replaced_lines,
    replacedFiles: row!.replaced_files,
  };
}

async function fail({ db, tenantId, importId, request }: Importing, error: unknown): Promise<void> {
  const text = `select app.cost_import_fail($1, $2, import_id => $3, error => $4)`;
  await call(db, tenantId, text, [importId, JSON.stringify(reasonOf(error, request))], z.object({}));
}

/** What people may read of an error; of a bug, no more than that it was one. The folder is not the tenant's to know. */
function reasonOf(error: unknown, { path }: ImportRequest): Record<string, unknown> {
  if (!(error instanceof AppError)) return { code: "internal_error" };
  const { code, detail, hint } = error;
  const message = error.message.replaceAll(path, basename(path));
  return { ...detail, code, message, ...(hint === undefined ? {} : { hint }) };
}
