// Worker processes on a test file's own database, with the kinds and the effects of chaos.
import { mkdtempSync, readdirSync, readFileSync } from "node:fs";
import { rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, expect } from "vitest";
import { z } from "zod";
import { call } from "../../src/db.ts";
import { auditOf, type Orphan } from "../chaos/audit.ts";
import { Crew, type CrewOptions, type End } from "../chaos/crew.ts";
import { addKinds, NO_TURNS, THINGS } from "../chaos/scene.ts";
import { type TestDatabase, type TestTenant, testDatabase } from "../support/database.ts";

/** The database, and those who work on it. */
export type JobsScene = {
  database: TestDatabase;
  /** Processes of `concurrency` runs each; ended with the file. */
  crew(concurrency: number, options?: Partial<CrewOptions>): Crew;
  /** Runs of a tenant, with one input each, asked for as its program does; gives their ids. */
  enqueue(tenant: TestTenant, kind: string, inputs: object[]): Promise<string[]>;
  rows<T extends Record<string, unknown>>(text: string, values?: unknown[]): Promise<T[]>;
  /** What was under way in processes that were killed. */
  orphans: Orphan[];
  /** Lines of the workers' logs. */
  lines(): (Record<string, unknown> & { msg: string })[];
  /** Every check of the audit, with what was found. */
  expectClean(): Promise<void>;
};

/** Call it once, at the top of a test file. */
export function jobsScene(): JobsScene {
  const database = testDatabase();
  const folder = mkdtempSync(join(tmpdir(), "holdfast-jobs-"));
  const crews: Crew[] = [];
  const orphans: Orphan[] = [];
  const rows: JobsScene["rows"] = async (text, values = []) =>
    (await database.superuser.query(text, values)).rows;

  beforeAll(async () => {
    await database.superuser.query(THINGS);
    await addKinds(database.superuser);
    await database.superuser.query(NO_TURNS);
  });
  // Before the database is dropped: hooks run in the reverse of their order.
  afterAll(async () => {
    await Promise.all(crews.map((crew) => crew.stop()));
    await rm(folder, { recursive: true });
  });

  const noteOrphans = async (end: End) => {
    if (end.signal !== "SIGKILL") return;
    const found = await rows<Omit<Orphan, "killedAt">>(
      `select r.tenant_id as "tenantId", r.id as "runId", r.attempt from app.job_runs as r
       where r.state = 'RUNNING' and split_part(r.worker, ':', 2) = $1`,
      [String(end.pid)],
    );
    orphans.push(...found.map((orphan) => ({ ...orphan, killedAt: end.at })));
  };

  return {
    database,
    rows,
    orphans,
    crew(concurrency, options = {}) {
      const crew = new Crew({
        workerUrl: database.url("holdfast_worker"),
        serviceUrl: database.url("holdfast_service"),
        folder,
        concurrency,
        drainMs: 2_000,
        onEnd: noteOrphans,
        ...options,
      });
      crews.push(crew);
      return crew;
    },
    async enqueue({ tenantId }, kind, inputs) {
      const made = await call(
        database.service,
        tenantId,
        `select e.run_id as id from jsonb_array_elements($4::jsonb) as a (input)
         cross join lateral app.job_enqueue($1, $2, kind => $3, input => a.input) as e`,
        [kind, JSON.stringify(inputs)],
        z.object({ id: z.guid() }),
      );
      return made.map(({ id }) => id);
    },
    lines: () =>
      readdirSync(folder)
        .flatMap((file) => readFileSync(join(folder, file), "utf8").split("\n"))
        .filter((line) => line.startsWith("{"))
        .map((line) => JSON.parse(line)),
    async expectClean() {
      const checks = await auditOf(database.superuser);
      expect(checks.filter(({ found, check }) => found > 0 && !check.startsWith("connections"))).toEqual([]);
    },
  };
}
