// `kill -9` of the one process of `npm start`, at any moment: the next start finishes what was begun, and no
// money is lost sight of. The server survives each kill, as it does in life, and is used again.
import { once } from "node:events";
import * as fs from "node:fs";
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { afterAll, afterEach, describe, expect, it } from "vitest";
import { startPostgres } from "../src/postgres.ts";
import { sampleTenants, writeSample } from "../src/sample.ts";
import {
  cleanUp,
  endProcesses,
  lives,
  lockOf,
  look,
  newDirectory,
  postmasterPid,
  type Running,
  runNode,
} from "./support/process.ts";

const ROUND_MS = 120_000;
const directory = newDirectory();
const settings = { HOLDFAST_DIR: directory, HTTP_PORT: "0" };

/** A provider that takes every request and never answers. */
const silent = createServer(() => {});

afterEach(endProcesses);
afterAll(async () => {
  silent.closeAllConnections();
  silent.close();
  await cleanUp();
});

/** Starts, waits for the moment, and kills node alone. */
async function killAt(moment: (system: Running) => Promise<unknown>, more: Record<string, string> = {}) {
  const system = runNode(["start", "--once", "--json"], { ...settings, ...more });
  await moment(system);
  process.kill(system.pid, "SIGKILL");
  const { signal, stdout, stderr } = await system.ended;
  expect({ signal, stdout }, stderr).toEqual({ signal: "SIGKILL", stdout: "" });
}

/** Up to so many milliseconds later; the moment is another in every run. */
async function within(ms: number): Promise<void> {
  await sleep(Math.random() * ms);
}

async function rowsOfSamples(): Promise<Map<string, number>> {
  const folder = fs.mkdtempSync(join(directory, "..", "bills-"));
  const today = new Date(new Date().toISOString().slice(0, 10));
  const rows = new Map<string, number>();
  for (const sample of sampleTenants(today)) rows.set(sample.name, (await writeSample(sample, folder)).rows);
  return rows;
}

describe("a first start that is killed again and again", { timeout: ROUND_MS }, () => {
  let held: { id: string; run_id: string; estimated_cost_nanousd: string }[];

  it("while the server is made", async () => {
    await killAt(() => sleep(500 + Math.random() * 400));
  });

  it("by SIGTERM before its report, which is an end in order", async () => {
    const system = runNode(["start", "--once", "--json"], settings);
    await system.seen(/PostgreSQL 18 (is|was) running/);
    process.kill(system.pid, "SIGTERM");
    const { code, stdout, stderr } = await system.ended;
    expect({ code, stdout }, stderr).toEqual({ code: 130, stdout: "" });
    expect(lives(postmasterPid(directory))).toBe(false);
    expect(lockOf(directory)).toBeUndefined();
  });

  it("while the database is made and migrated", async () => {
    await killAt(async (system) => {
      await system.seen(/PostgreSQL 18 (is|was) running/);
      await within(700);
    });
  });

  it("while bills are imported", async () => {
    await killAt(async (system) => {
      await system.seen(/PostgreSQL 18 (is|was) running/);
      const imports = async () =>
        (await look(directory, "select count(*)::int as n from app.cost_imports").catch(() => []))[0]?.n;
      await expect.poll(imports, { timeout: 30_000, interval: 20 }).toBeGreaterThan(1);
      await within(800);
    });
    expect(lives(postmasterPid(directory))).toBe(true);
  });

  it("while models are asked", async () => {
    silent.listen(0, "127.0.0.1");
    await once(silent, "listening");
    const host = `127.0.0.1:${(silent.address() as AddressInfo).port}`;
    await look(directory, "select * from ops.llm_price_set($1, 'slow-model', 1, 2, 'a test')", [host]);
    await killAt(
      async () => {
        await once(silent, "request");
        await within(200);
      },
      { LLM_BASE_URL: `http://${host}/v1`, LLM_MODEL: "slow-model" },
    );
    held = await look(
      directory,
      "select id, run_id, estimated_cost_nanousd from app.llm_reservations where status = 'RESERVED'",
    );
    expect(held.length).toBeGreaterThan(0);
    expect(
      await look(directory, "select state from app.job_runs where id = any($1::uuid[])", [
        held.map((hold) => hold.run_id),
      ]),
    ).toEqual(held.map(() => ({ state: "RUNNING" })));
  });

  it("is finished by the next start, as if nothing had happened", async () => {
    const rows = await rowsOfSamples();
    const { code, stdout, stderr } = await runNode(["start", "--once", "--json"], settings).ended;
    expect(code, stderr.slice(-3_000)).toBe(0);
    const { tenants } = JSON.parse(stdout) as { tenants: { tenant: string; rows: number; state: string }[] };
    expect(new Map(tenants.map((line) => [line.tenant, line.rows]))).toEqual(rows);
    for (const { tenant, state } of tenants) {
      expect(state, tenant).toBe(tenant === "Zero Budget GmbH" ? "budget_exceeded" : "completed");
    }
    expect(lives(postmasterPid(directory))).toBe(false);
    expect(fs.existsSync(join(directory, "sample"))).toBe(false);
  });

  it("leaves no run unended, no hold forgotten and no sum wrong", async () => {
    const server = await startPostgres({ directory, port: 0 });
    try {
      expect(await look(directory, "select * from app.llm_check()")).toEqual([]);
      expect(
        await look(directory, "select state, kind from app.job_runs where state <> 'COMPLETED'"),
      ).toEqual([]);
      expect(
        await look(directory, "select tenant_id from app.analyses group by tenant_id having count(*) > 1"),
      ).toEqual([]);

      // Nobody knows whether these calls were billed: each counts against its budget still.
      const counted = await look(
        directory,
        `select r.id, r.status in ('RESERVED', 'PRESUMED') as open,
                (select sum(p.reserved_nanousd + p.presumed_nanousd) >= r.estimated_cost_nanousd
                 from app.llm_budget_periods as p where p.tenant_id = r.tenant_id) as counted
         from app.llm_reservations as r where r.id = any($1::uuid[]) order by r.id`,
        [held.map((hold) => hold.id)],
      );
      expect(counted).toEqual(
        held
          .map(({ id }) => ({ id, open: true, counted: true }))
          .toSorted((one, other) => one.id.localeCompare(other.id)),
      );
    } finally {
      await server.stop();
    }
  });
});
