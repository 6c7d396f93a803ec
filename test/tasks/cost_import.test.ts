import { createHash } from "node:crypto";
import {
  appendFileSync,
  chmodSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { gzipSync } from "node:zlib";
import { afterAll, beforeEach, describe, expect, test } from "vitest";
import { AppError } from "../../src/errors.ts";
import { sampleTenants, writeSample } from "../../src/sample.ts";
import costImport from "../../tasks/cost_import.ts";
import { testDatabase } from "../support/database.ts";
import { journal, sql } from "../support/job_scene.ts";
import { type Ended, executeTask, type Given } from "../support/task_run.ts";

const database = testDatabase();
const { log } = journal();
const directory = mkdtempSync(join(tmpdir(), "cost-import-"));
afterAll(() => rmSync(directory, { recursive: true }));

const bill = await writeSample(sampleTenants(new Date("2025-11-20T00:00:00Z"))[2]!, directory);
const ROWS = 200;
const lines = readFileSync(bill.path, "utf8").split("\n");
/** A header and the first rows of a bill. */
const WHOLE = Buffer.from(lines.slice(0, ROWS + 1).join("\n"));
/** The same, with a row less. */
const SHORTER = Buffer.from(lines.slice(0, ROWS).join("\n"));

let tenant = { tenantId: "", name: "" };
let folder = "";
beforeEach(async () => {
  tenant = await database.addTenant();
  folder = join(directory, tenant.tenantId);
  mkdirSync(folder);
});

/** A source whose file holds this; null: there is none. */
async function source(name: string, content: Buffer | string | null = WHOLE): Promise<string> {
  const path = join(folder, `${name}.csv`);
  if (content !== null) writeFileSync(path, content);
  await database.ops.query("select ops.cost_source_set($1, $2, $3, 'test')", [tenant.name, name, path]);
  return path;
}

const importAll = (given: Partial<Given> = {}): Promise<Ended> =>
  executeTask(database, tenant.tenantId, costImport(database.service), { log, ...given });

const sources = () =>
  sql<{ source: string; last_digest: string | null; last_import: string | null; rows: string | null }>(
    database,
    "select source, last_digest, last_import, rows from ops.cost_sources where tenant = $1",
    [tenant.name],
  );
const imports = () =>
  sql<{ source: string; status: string; error: Record<string, unknown> | null }>(
    database,
    "select source, status, error from app.cost_imports where tenant_id = $1 order by id",
    [tenant.tenantId],
  );
const sha256 = (content: Buffer) => createHash("sha256").update(content).digest("hex");

describe("it works", () => {
  test("each source is imported, and what was read is remembered by its digest", async () => {
    await source("aws");
    await source("packed", gzipSync(SHORTER));
    const ended = await importAll();
    expect(ended).toMatchObject({
      state: "COMPLETED",
      result: { sources: 2, imported: 2, unchanged: 0, rows: 2 * ROWS - 1 },
    });
    expect(await sources()).toEqual([
      { source: "aws", last_digest: sha256(WHOLE), last_import: "PUBLISHED", rows: String(ROWS) },
      {
        ...{ source: "packed", last_digest: sha256(gzipSync(SHORTER)) },
        ...{ last_import: "PUBLISHED", rows: String(ROWS - 1) },
      },
    ]);
    const parts = ended.progress.map(([part]) => part);
    expect(parts).toEqual(parts.toSorted((a, b) => a - b));
    expect(parts.at(-1)).toBe(1);
    expect(ended.progress.at(-1)).toEqual([1, `packed: ${ROWS - 1} rows`]);
  });

  test("a tenant without a source has nothing to do", async () => {
    expect(await importAll()).toMatchObject({
      result: { sources: 0, imported: 0, unchanged: 0, rows: 0 },
    });
  });

  test("a source that was dropped while it was read keeps what came in", async () => {
    await source("aws");
    const ended = await importAll({
      log: Object.assign(Object.create(log), {
        info: (_: unknown, said: string) => {
          if (said === "import_started")
            void database.ops.query("select ops.cost_source_drop($1, 'aws', 'test')", [tenant.name]);
        },
      }),
    });
    expect(ended).toMatchObject({ state: "COMPLETED", result: { imported: 1 } });
    expect(await sources()).toEqual([]);
    expect(await imports()).toMatchObject([{ status: "PUBLISHED" }]);
  });
});

describe("it works twice", () => {
  test("a file that has not changed is not imported again; one that has is", async () => {
    const path = await source("aws");
    await source("gcp", SHORTER);
    await importAll();
    expect(await importAll()).toMatchObject({ result: { sources: 2, imported: 0, unchanged: 2, rows: 0 } });
    writeFileSync(path, SHORTER);
    expect(await importAll()).toMatchObject({
      result: { sources: 2, imported: 1, unchanged: 1, rows: ROWS - 1 },
    });
    expect((await imports()).map(({ source: of, status }) => `${of} ${status}`)).toEqual([
      ...["aws SUPERSEDED", "gcp PUBLISHED", "aws PUBLISHED"],
    ]);
  });

  test("the same file at another path is the same file", async () => {
    await source("aws");
    await importAll();
    const moved = join(folder, "moved.csv");
    writeFileSync(moved, WHOLE);
    await database.ops.query("select ops.cost_source_set($1, 'aws', $2, 'moved')", [tenant.name, moved]);
    expect(await importAll()).toMatchObject({ result: { unchanged: 1 } });
  });

  test("a file whose months another import has taken is read again", async () => {
    await source("aws");
    await importAll();
    const path = join(folder, "by-hand.csv");
    writeFileSync(path, SHORTER);
    await database.ops.query("select ops.cost_source_set($1, 'aws', $2, 'test')", [tenant.name, path]);
    await importAll();
    // As a slower run of before leaves it: the digest of what its own import had, and other months in force.
    await sql(
      database,
      `update app.cost_sources set last_digest = $2,
         last_import_id = (select id from app.cost_imports where tenant_id = $1 and status = 'SUPERSEDED')
       where tenant_id = $1`,
      [tenant.tenantId, sha256(SHORTER)],
    );
    expect(await importAll()).toMatchObject({ result: { imported: 1, unchanged: 0 } });
  });

  test("what changes while it is read is read again: the digest is that of what was read", async () => {
    const path = await source("aws");
    const ended = await importAll({
      log: Object.assign(Object.create(log), {
        info: (_: unknown, said: string) => {
          if (said === "import_published") appendFileSync(path, "\n");
        },
      }),
    });
    expect(ended).toMatchObject({ state: "COMPLETED" });
    expect(await sources()).toMatchObject([{ last_digest: sha256(WHOLE) }]);
    expect(await importAll()).toMatchObject({ result: { imported: 1, unchanged: 0 } });
    expect(await importAll()).toMatchObject({ result: { imported: 0, unchanged: 1 } });
  });
});

describe("it refuses", () => {
  const faulty = async (given?: Partial<Given>): Promise<Ended & { error: AppError }> => {
    const ended = await importAll(given);
    expect(ended.error).toBeInstanceOf(AppError);
    return ended as Ended & { error: AppError };
  };

  test("a file that is not there, once the others are in; the folder is not told", async () => {
    await source("a", null);
    await source("b");
    const { state, error } = await faulty();
    expect(state).toBe("FAILED");
    expect(error).toMatchObject({
      code: "cost_source_unreadable",
      message: "a.csv: there is no such file.",
      detail: {
        ...{ source: "a", file: "a.csv", reason: "there is no such file" },
        ...{ failed_sources: 1, sources: 2, imported: 1 },
      },
    });
    expect(error.message + JSON.stringify(error.detail)).not.toContain(folder);
    expect(await imports()).toMatchObject([{ source: "b", status: "PUBLISHED" }]);
    writeFileSync(join(folder, "a.csv"), WHOLE);
    expect(await importAll()).toMatchObject({ state: "COMPLETED", result: { imported: 1, unchanged: 1 } });
  });

  test("a folder, and a file that may not be read", async () => {
    await source("a", null);
    mkdirSync(join(folder, "a.csv"));
    expect((await faulty()).error).toMatchObject({ detail: { reason: "it is not a file" } });
    rmSync(join(folder, "a.csv"), { recursive: true });
    writeFileSync(join(folder, "a.csv"), WHOLE);
    chmodSync(join(folder, "a.csv"), 0);
    if (process.getuid?.() !== 0)
      expect((await faulty()).error).toMatchObject({ detail: { reason: "it may not be read" } });
  });

  test("a file that is no FOCUS: a dead letter at once, and the import says where", async () => {
    await source("a", "a,b,c\n1,2,3\n");
    await source("b");
    const { state, error } = await faulty();
    expect(state).toBe("DEAD_LETTER");
    expect(error).toMatchObject({ code: "focus_invalid", detail: { source: "a", file: "a.csv", line: 1 } });
    expect(await imports()).toMatchObject([
      { source: "a", status: "FAILED", error: { code: "focus_invalid" } },
      { source: "b", status: "PUBLISHED" },
    ]);
  });

  test("of several, what may pass by itself is named first, so that it is tried again", async () => {
    await source("a", "a,b,c\n1,2,3\n");
    await source("b", null);
    const { state, error } = await faulty();
    expect(state).toBe("FAILED");
    expect(error).toMatchObject({
      code: "cost_source_unreadable",
      detail: { source: "b", failed_sources: 2, sources: 2, imported: 0 },
    });
  });
});

test("it ends with its signal, and leaves no import open", async () => {
  await source("a");
  await source("b");
  const stop = new AbortController();
  const ended = await importAll({
    signal: stop.signal,
    log: Object.assign(Object.create(log), {
      info: (_: unknown, said: string) => {
        if (said === "import_started") stop.abort(new AppError("job_timeout"));
      },
    }),
  });
  expect(ended).toMatchObject({ state: "FAILED", error: { code: "job_timeout" } });
  expect(await imports()).toMatchObject([{ source: "a", status: "FAILED" }]);
  expect(await sources()).toMatchObject([{ last_digest: null }, { last_digest: null }]);
});
