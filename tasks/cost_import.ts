// Takes in the cost files of a tenant's sources, where they have changed since the last time.
import { createHash } from "node:crypto";
import { createReadStream } from "node:fs";
import { access, constants, stat } from "node:fs/promises";
import { basename } from "node:path";
import { z } from "zod";
import type { Db } from "../src/db.ts";
import { AppError, type ErrorCode } from "../src/errors.ts";
import { type Imported, importFocus } from "../src/imports.ts";
import { FirstInput } from "../src/slot_input.ts";
import { type Run, type TaskEntry, task } from "../src/tasks.ts";

const Source = z.object({ source: z.string(), path: z.string(), last_digest: z.string().nullable() });
type Source = z.infer<typeof Source>;

/** What is wrong with a file, and no reason to leave the others: those that may pass by themselves come first. */
const FILE_FAULTS: readonly ErrorCode[] = [
  "cost_source_unreadable",
  "import_empty",
  "import_invalid",
  "focus_invalid",
];

/**
 * The task of kind `cost_import`. Its result counts the sources, those that were imported and those whose file was
 * unchanged, and the rows that came in. A file that cannot be taken fails the run, once the others are in: with
 * `cost_source_unreadable` it is tried again, with `focus_invalid` it is not.
 */
export default function costImport(db: Db): TaskEntry {
  return task({
    kind: "cost_import",
    input: FirstInput,
    async run(run) {
      const text = "select source, path, last_digest from app.cost_sources_list($1, $2)";
      const sources = await run.call(text, [], Source);
      const done = { sources: sources.length, imported: 0, unchanged: 0, rows: 0 };
      const faults: AppError[] = [];
      for (const [index, source] of sources.entries()) {
        try {
          const imported = await take(db, run, source, (part, rows) =>
            run.progress((index + part) / sources.length, `${source.source}: ${rows} rows`),
          );
          if (imported === undefined) done.unchanged += 1;
          else done.imported += 1;
          done.rows += imported?.rows ?? 0;
        } catch (error) {
          run.signal.throwIfAborted();
          faults.push(faultOf(source, error));
        }
      }
      if (faults.length > 0) throw firstOf(faults, done);
      return done;
    },
  });
}

/**
 * Imports the file of a source, unless it is the one that was imported last. What is remembered of it is the digest of
 * the bytes that were imported: a file that changes meanwhile is read again the next time.
 */
async function take(
  db: Db,
  run: Run<unknown>,
  { source, path, last_digest }: Source,
  onProgress: (part: number, rows: number) => void,
): Promise<Imported | undefined> {
  const size = await sizeOf(path);
  if (last_digest !== null && (await digestOf(path, run.signal)) === last_digest) return undefined;
  const imported = await importFocus(db, run.tenantId, {
    path,
    source,
    onProgress: (rows, bytes) => onProgress(Math.min(1, bytes / size), rows),
    signal: run.signal,
    log: run.log,
  });
  const text = "select app.cost_source_imported($1, $2, source => $3, digest => $4, import_id => $5) as kept";
  await run.call(text, [source, imported.digest, imported.importId], z.object({ kept: z.boolean() }));
  return imported;
}

/** The bytes of a file that can be read; a pipe or a device would be waited for without an end. */
async function sizeOf(path: string): Promise<number> {
  const { size, ...stats } = await stat(path).then((found) => ({ size: found.size, isFile: found.isFile() }));
  if (!stats.isFile) throw new AppError("cost_source_unreadable", { detail: { reason: "it is not a file" } });
  await access(path, constants.R_OK);
  return Math.max(1, size);
}

/** SHA-256 in hex, of a file of any size. */
async function digestOf(path: string, signal: AbortSignal): Promise<string> {
  const hash = createHash("sha256");
  for await (const chunk of createReadStream(path, { signal })) hash.update(chunk);
  return hash.digest("hex");
}

/** The fault of a file, named by its source and its name without the folder. Throws what is not the file's doing. */
function faultOf({ source, path }: Source, error: unknown): AppError {
  const file = basename(path);
  // A file that has gone between the look at it and the import has no line to name.
  if (error instanceof AppError && FILE_FAULTS.includes(error.code)) {
    const isGone = error.code === "focus_invalid" && error.detail["line"] === undefined;
    if (!isGone && error.code !== "cost_source_unreadable") {
      const { code, message, detail, hint } = error;
      return new AppError(code, { message, detail: { source, file, ...detail }, hint, cause: error });
    }
    return unreadable(source, file, String(error.detail["reason"]), error);
  }
  const code =
    error instanceof Error && "syscall" in error && "code" in error ? String(error.code) : undefined;
  if (code === undefined) throw error;
  const reason = { ENOENT: "there is no such file", EACCES: "it may not be read" }[code] ?? code;
  return unreadable(source, file, reason, error);
}

function unreadable(source: string, file: string, reason: string, cause: unknown): AppError {
  return new AppError("cost_source_unreadable", {
    message: `${file}: ${reason}.`,
    detail: { source, file, reason },
    hint: "Every worker must see the file and may read it; ops.cost_sources shows its path.",
    cause,
  });
}

/** The fault to name: one that may pass by itself before one that will not, for then the run is tried again. */
function firstOf(faults: AppError[], done: { sources: number; imported: number }): AppError {
  const [first] = faults.toSorted((a, b) => FILE_FAULTS.indexOf(a.code) - FILE_FAULTS.indexOf(b.code));
  const { code, message, detail, hint } = first!;
  const counts = { failed_sources: faults.length, sources: done.sources, imported: done.imported };
  return new AppError(code, { message, detail: { ...detail, ...counts }, hint, cause: first });
}
