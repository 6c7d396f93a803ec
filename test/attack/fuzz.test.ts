// Statements that nobody would write, by the thousand, as the tenant role: none shows or changes what is another
// tenant's. And holes are made on purpose, to see that each is found.
import { beforeAll, describe, expect, inject, test } from "vitest";
import { testDatabase } from "../support/database.ts";
import { type Fuzzed, fuzz, summary } from "./fuzzing.ts";
import { type AttackScene, attackScene } from "./scene.ts";
import { hasSqlsmith, smithed } from "./sqlsmith.ts";

const installed = hasSqlsmith();
if (!installed)
  console.warn("sqlsmith is not installed: the fuzz is left out. On Debian: apt-get install sqlsmith");

const SEED = Number(process.env["FUZZ_SEED"] ?? 1);
const STATEMENTS = Number(process.env["FUZZ_STATEMENTS"] ?? 5_000);

const whole = testDatabase();
const holed = testDatabase();
const scenes: { whole?: AttackScene; holed?: AttackScene } = {};

beforeAll(async () => {
  scenes.whole = await attackScene(whole);
  scenes.holed = await attackScene(holed);
});

describe.skipIf(!installed)("statements of sqlsmith", () => {
  test("are the same for the same seed, and others for another", async () => {
    const { host, port } = inject("server");
    const print = async (seed: number, catalog: boolean) => {
      const printed: string[] = [];
      const of = {
        host,
        port,
        database: whole.name,
        catalog,
        seed,
        count: 100,
      } as const;
      for await (const statement of smithed(of)) printed.push(statement);
      return printed.join(";\n");
    };
    const [first, again, other] = await Promise.all([print(7, true), print(7, true), print(8, true)]);
    expect(again).toBe(first);
    expect(other).not.toBe(first);
    const data = await print(7, false);
    expect(data).toMatch(/\btenant\.findings\b/);
    expect(data).not.toMatch(/\b(from|join)\s+(pg_catalog|information_schema)\./);
  }, 60_000);

  test(`${STATEMENTS} of them show and change nothing of another tenant`, async () => {
    const began = performance.now();
    const result = await fuzz({
      database: whole,
      scene: scenes.whole!,
      server: inject("server"),
      seed: SEED,
      statements: STATEMENTS,
      catalogShare: 0.25,
    });
    const seconds = ((performance.now() - began) / 1_000).toFixed(0);
    console.info(`fuzz, seed ${SEED}, ${seconds} s: ${summary(result)}`);
    expect(result.findings).toEqual([]);
    expect(result.changed).toEqual([]);
    // A fuzz in which everything fails proves nothing.
    expect(result.tally.statements).toBe(STATEMENTS);
    expect(result.tally.ours.succeeded / STATEMENTS).toBeGreaterThan(0.3);
    expect(result.tally.ours.withRows / STATEMENTS).toBeGreaterThan(0.1);
    expect(result.tally.sawOwnRow / STATEMENTS).toBeGreaterThan(0.02);
  }, 300_000);
});

describe.skipIf(!installed)("a hole that is made on purpose is found", () => {
  /** The tenant role keeps `analyses` alone, so that few statements are enough. */
  async function attacked(hole: string, mend: string): Promise<Fuzzed> {
    await holed.superuser.query(`begin; revoke all on all tables in schema app from holdfast_tenant;
      revoke all on all tables in schema tenant from holdfast_tenant;
      grant select on tenant.analyses, app.tiers to holdfast_tenant; ${hole}; commit`);
    try {
      const scene = scenes.holed!;
      return await fuzz({
        database: holed,
        scene,
        server: inject("server"),
        seed: SEED,
        statements: 400,
        catalogShare: 0,
      });
    } finally {
      await holed.superuser.query(mend);
    }
  }
  const shown = (result: Fuzzed) => result.findings.map(({ where }) => where.split(":")[0]);

  test("no hole, no finding", async () => {
    expect(await attacked("select", "select")).toMatchObject({ findings: [], changed: [] });
  }, 60_000);

  test("a policy that lets everybody in", async () => {
    const result = await attacked(
      "create policy hole on app.analyses for select to holdfast_owner using (true)",
      "drop policy hole on app.analyses",
    );
    expect(shown(result)).toContain("row");
  }, 60_000);

  test("a view that runs as its owner", async () => {
    const result = await attacked(
      `create view app.hole as select md5(id::text) as mark, summary from app.analyses;
       grant select on app.hole to holdfast_tenant`,
      "drop view app.hole",
    );
    expect(shown(result)).toContain("row");
  }, 60_000);

  /** A policy whose function says what it sees of every row. */
  const talkative = (statements: string) =>
    attacked(
      `create function app.hole(summary text) returns boolean language plpgsql as $$
       begin ${statements} end $$;
       grant execute on function app.hole to holdfast_owner;
       create policy hole on app.analyses for select to holdfast_owner using (app.hole(summary))`,
      "drop policy hole on app.analyses; drop function app.hole",
    );

  test("an error that prints a row", async () => {
    expect(shown(await talkative("raise 'strange' using detail = summary;"))).toContain("error");
  }, 60_000);

  test("a notice that prints a row", async () => {
    expect(shown(await talkative("raise notice '%', summary; return false;"))).toContain("notice");
  }, 60_000);

  test("a right to write", async () => {
    const result = await attacked(
      `grant select, insert, update, delete on app.analyses to holdfast_tenant;
       create policy hole on app.analyses to holdfast_owner, holdfast_tenant using (true) with check (true)`,
      "drop policy hole on app.analyses; revoke select, insert, update, delete on app.analyses from holdfast_tenant",
    );
    expect([...result.changed, ...shown(result)]).not.toEqual([]);
  }, 60_000);
});
