// Takes a cost file into the database: batches under an import that nobody sees, then one step that shows it.
import { basename } from "node:path";
import { z } from "zod";
import { type CallOptions, call, type Db } from "./db.ts";
import { AppError } from "./errors.ts";
import { type Batch, readFocus } from "./focus.ts";

/** What to import. */
export type ImportRequest = {
  path: string;
  /** Where files of this kind come from. A file replaces the billing periods of its own source, so twice is once. */
  source: string;
  /** Called after each batch with the rows stored so far. */
  onProgress?: ((rows: number) => void) | undefined;
  /** Gives up between batches, and in the middle of one. */
  signal?: AbortSignal | undefined;
};

/** A published import. `flags` counts rows per data-quality flag; `periods` are the billing periods it now stands for. */
export type Imported = {
  importId: string;
  rows: number;
  flaggedRows: number;
  flags: Record<string, number>;
  periods: number;
};

/** Summing up a file is the one long statement of an import. */
const ROLL_UP_TIMEOUT_MS = 600_000;

/**
 * Imports a FOCUS file for a tenant: a batch is read while the one before is stored; then the import is summed up and
 * published. Throws `focus_invalid` with file, line and column, or what the database raised: the import is then marked
 * failed with that reason, and what the tenant saw before stays as it was.
 */
export async function importFocus(db: Db, tenantId: string, request: ImportRequest): Promise<Imported> {
  const batches = readFocus(request.path);
  // A file that is refused at its first batch leaves a failed import too, for people to see.
  const [first] = await Promise.allSettled([batches.next()]);
  const version = first.status === "fulfilled" ? first.value.value?.version : undefined;
  const importId = await start(db, tenantId, request, version ?? "unknown");
  try {
    if (first.status === "rejected") throw first.reason;
    await load(db, tenantId, importId, request, first.value.value, batches);
    const options = { signal: request.signal };
    await rollUp(db, tenantId, importId, { ...options, timeoutMs: ROLL_UP_TIMEOUT_MS });
    return await publish(db, tenantId, importId, options);
  } catch (error) {
    await fail(db, tenantId, importId, error).catch(() => {}); // the first error tells more; the sweep ends what is left
    throw error;
  } finally {
    await batches.return(undefined);
  }
}

/** Stores batch after batch, each in its own transaction; reading is at most one batch ahead. */
async function load(
  db: Db,
  tenantId: string,
  importId: string,
  request: ImportRequest,
  first: Batch | undefined,
  rest: AsyncIterable<Batch>,
): Promise<void> {
  let stored = 0;
  const store = (batch: Batch) => {
    const storing = add(db, tenantId, importId, batch.rows, { signal: request.signal }).then((rows) => {
      stored += rows;
      request.onProgress?.(stored);
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
  const text = `select app.cost_import_start($1, $2, source => $3, file_name => $4, focus_version => $5) as id`;
  const values = [request.source, basename(request.path), version];
  const [row] = await call(db, tenantId, text, values, z.object({ id: z.uuid() }), {
    signal: request.signal,
  });
  return row!.id;
}

async function add(
  db: Db,
  tenantId: string,
  importId: string,
  rows: string[],
  options: CallOptions,
): Promise<number> {
  const text = `select app.cost_import_add($1, $2, import_id => $3, rows => $4) as rows`;
  const [row] = await call(db, tenantId, text, [importId, rows], z.object({ rows: z.int() }), options);
  return row!.rows;
}

async function rollUp(db: Db, tenantId: string, importId: string, options: CallOptions): Promise<void> {
  const text = `select app.cost_import_roll_up($1, $2, import_id => $3) as days`;
  await call(db, tenantId, text, [importId], z.object({ days: z.int() }), options);
}

const Published = z.object({
  line_count: z.coerce.number(),
  flagged_count: z.coerce.number(),
  flags: z.record(z.string(), z.int()),
  period_count: z.int(),
});

async function publish(db: Db, tenantId: string, importId: string, options: CallOptions): Promise<Imported> {
  const text = `select line_count, flagged_count, flags, period_count
    from app.cost_import_publish($1, $2, import_id => $3)`;
  const [row] = await call(db, tenantId, text, [importId], Published, options);
  const { line_count: rows, flagged_count: flaggedRows, flags, period_count: periods } = row!;
  return { importId, rows, flaggedRows, flags, periods };
}

async function fail(db: Db, tenantId: string, importId: string, error: unknown): Promise<void> {
  const text = `select app.cost_import_fail($1, $2, import_id => $3, error => $4)`;
  await call(db, tenantId, text, [importId, JSON.stringify(reasonOf(error))], z.object({}));
}

/** What people may read of an error; of a bug, no more than that it was one. */
function reasonOf(error: unknown): Record<string, unknown> {
  if (!(error instanceof AppError)) return { code: "internal_error" };
  const { code, message, detail, hint } = error;
  return { ...detail, code, message, ...(hint === undefined ? {} : { hint }) };
}
