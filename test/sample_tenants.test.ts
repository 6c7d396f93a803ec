// The sample of a first start: made whole, made once, finished when it was cut short, and never beside real tenants.
import * as fs from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { PassThrough } from "node:stream";
import type { WriteStream } from "node:tty";
import { afterAll, describe, expect, it } from "vitest";
import { Progress } from "../src/progress.ts";
import { reportJson } from "../src/report.ts";
import { sampleTenants } from "../src/sample.ts";
import { addSampleTenants } from "../src/sample_tenants.ts";
import { tenantAdd, tenantsList } from "../src/tenants.ts";
import { testDatabase } from "./support/database.ts";

const database = testDatabase();
const ops = { pool: database.ops };
const directory = fs.mkdtempSync(join(tmpdir(), "holdfast-sample-"));
const NAMES = sampleTenants(new Date()).map((sample) => sample.name);

afterAll(() => fs.rmSync(directory, { recursive: true }));

function add(signal = new AbortController().signal): Promise<number> {
  const out = Object.assign(new PassThrough(), { isTTY: false }) as unknown as WriteStream;
  return addSampleTenants({ db: database.worker, ops, directory, progress: new Progress(out), signal });
}

async function rows(): Promise<Map<string, number>> {
  const { tenants } = JSON.parse(await reportJson(ops)) as { tenants: { tenant: string; rows: number }[] };
  return new Map(tenants.map((line) => [line.tenant, line.rows]));
}

describe("addSampleTenants", { timeout: 60_000 }, () => {
  it("leaves a database alone whose tenants are people's own", async () => {
    const own = { name: "Own", tier: "ACTIVE", timeZone: "UTC", limitUsd: "1", sample: false };
    const tenantId = await tenantAdd(ops, own, "a test");
    expect(await add()).toBe(0);
    expect(await rows()).toEqual(new Map([["Own", 0]]));
    await database.superuser.query("delete from app.llm_budgets where tenant_id = $1", [tenantId]);
    await database.superuser.query("delete from app.tenants where tenant_id = $1", [tenantId]);
  });

  it("stops when it is told to, and leaves nothing half-visible and no file", async () => {
    const ending = new AbortController();
    const adding = add(ending.signal);
    await expect
      .poll(async () => (await tenantsList(ops)).length, { timeout: 20_000, interval: 20 })
      .toBeGreaterThan(1);
    ending.abort(new Error("SIGINT"));
    await expect(adding).rejects.toThrow("SIGINT");
    expect(fs.readdirSync(directory)).toEqual([]);
    expect((await rows()).size).toBeLessThan(5);
  });

  it("finishes what was begun, and does nothing more after that", async () => {
    const before = await rows();
    const whole = [...before.values()].filter((count) => count > 0).length;
    expect(await add()).toBe(5 - whole);
    const made = await rows();
    expect([...made.keys()].toSorted()).toEqual(NAMES.toSorted());
    for (const [name, count] of made) {
      expect(count, name).toBeGreaterThan(1_000);
      if ((before.get(name) ?? 0) > 0) expect(count).toBe(before.get(name));
    }
    const { rows: span } = await database.superuser.query(
      `select t.name, count(distinct (l.charge_period_start at time zone 'UTC')::date)::int as days
       from app.cost_lines_current as l join app.tenants as t using (tenant_id) group by 1`,
    );
    expect(new Map(span.map((line) => [line.name, line.days]))).toEqual(
      new Map(NAMES.map((name) => [name, 120])),
    );
    expect(await add()).toBe(0);
    expect(await rows()).toEqual(made);
    expect(fs.readdirSync(directory)).toEqual([]);
  });
});
