// sql/ops/llm_price_override_set.sql, llm_price_override_end.sql and llm_price_overrides.sql: what a tenant pays instead.
import { randomUUID } from "node:crypto";
import { beforeEach, describe, expect, test } from "vitest";
import { type Row, raised } from "../support/contract.ts";
import { testDatabase } from "../support/database.ts";
import { ledgerOf } from "../support/ledger.ts";

const database = testDatabase();
const ledger = ledgerOf(database);
let provider = "";
let tenant = { tenantId: "", name: "" };

beforeEach(async () => {
  provider = `p-${randomUUID()}`;
  tenant = await database.addTenant();
  await database.ops.query("select ops.llm_price_set($1, 'm', 1, 2, reason => 'test')", [provider]);
});

const rows = async (text: string, values: unknown[] = []) =>
  (await database.superuser.query(text, values)).rows as Row[];
/** Calls the function with a tenant, a provider, a reason and what is named. */
async function call(
  name: "set" | "end",
  args: string,
  asked: { by?: unknown; of?: string; why?: unknown } = {},
) {
  const { by = provider, of = tenant.name, why = "as agreed" } = asked;
  const text = `select * from ops.llm_price_override_${name}($1, $2, $3${args === "" ? "" : `, ${args}`})`;
  const result = await database.ops.query(text, [of, by, why]);
  expect(result.rows).toHaveLength(1);
  return result.rows[0] as Row;
}
const set = (args: string, asked = {}) => call("set", args, asked);
const end = (args = "", asked = {}) => call("end", args, asked);
const stored = () =>
  rows("select * from app.llm_price_overrides where tenant_id = $1 order by id", [tenant.tenantId]);
const shown = async () =>
  (await database.ops.query("select * from ops.llm_price_overrides where tenant = $1", [tenant.name])).rows;
const audits = () =>
  rows(
    "select actor, action, reason, before, after from ops.audit_log where subject = $1 and action like 'llm_price%' order by id",
    [tenant.name],
  );
/** What a hold of 500 input and 250 output tokens is made for: 1,000,000 nano-USD at the price. */
const held = async (id = tenant.tenantId) =>
  (await ledger.reserve(id, { provider }))["estimated_cost_nanousd"];

describe("it works", () => {
  test("a factor, for one tenant; one log line says so", async () => {
    expect(await held()).toBe("1000000");
    const made = await set("factor => 0.9");
    expect(made).toMatchObject({ before_factor: null, after_factor: "0.9", after_usd_per_million: null });
    expect(await held()).toBe("900000");
    expect(await held((await database.addTenant()).tenantId)).toBe("1000000");
    expect(await shown()).toMatchObject([
      { provider, model: "", unit: "", usd_per_million: null, factor: "0.9", id: made["override_id"] },
    ]);
    expect(await audits()).toMatchObject([
      {
        actor: "holdfast_ops",
        action: "llm_price_override_set",
        reason: "as agreed",
        before: null,
        after: { id: made["override_id"], factor: 0.9 },
      },
    ]);
  });

  test("a price of its own, exactly", async () => {
    await set("model => 'm', unit => 'output', usd_per_million => 0.123456789");
    expect(await held()).toBe("530865"); // 500,000 + 250 x 123.456789, rounded up
  });

  test("free, and dearer", async () => {
    await set("factor => 0");
    expect(await held()).toBe("0");
    await set("factor => 10");
    expect(await held()).toBe("10000000");
  });

  test("the model goes before the provider, then the unit before all units", async () => {
    await set("factor => 2");
    expect(await held()).toBe("2000000");
    await set("unit => 'input', factor => 3"); // the unit, of every model
    expect(await held()).toBe("2500000");
    await set("model => 'm', factor => 4"); // the model, every unit: before the unit of every model
    expect(await held()).toBe("4000000");
    await set("model => 'm', unit => 'input', factor => 5");
    expect(await held()).toBe("4500000");
    await end("model => 'm'"); // output falls back to the provider
    expect(await held()).toBe("3500000");
    await end("model => 'm', unit => 'input'"); // input, to the unit
    expect(await held()).toBe("2500000");
    await end("unit => 'input'");
    expect(await held()).toBe("2000000");
    await database.ops.query("select ops.llm_price_set($1, 'another', 1, 2, reason => 'test')", [provider]);
    await set("model => 'another', factor => 6");
    expect(await held()).toBe("2000000");
  });

  test("a hold is settled with what it was made with, whatever is set or ended after it", async () => {
    await set("factor => 0.5");
    const cheap = await ledger.reserve(tenant.tenantId, { provider });
    await set("factor => 0.8");
    const dear = await ledger.reserve(tenant.tenantId, { provider });
    await end();
    expect(await ledger.settle(tenant.tenantId, cheap["id"], 500, 250)).toMatchObject({
      cost_nanousd: "500000",
    });
    expect(await ledger.settle(tenant.tenantId, dear["id"], 500, 250)).toMatchObject({
      cost_nanousd: "800000",
    });
    expect(await held()).toBe("1000000");
  });

  test("what replaces another begins where that one ends; the same again changes nothing", async () => {
    const first = await set("factor => 0.5");
    const second = await set("factor => 0.8");
    expect(second).toMatchObject({ before_factor: "0.5", after_factor: "0.8" });
    const before = [await stored(), await audits()];
    expect(await set("factor => 0.80")).toMatchObject({ override_id: second["override_id"] });
    expect([await stored(), await audits()]).toEqual(before);
    const [meet] = await rows(
      `select upper(a.valid) = lower(b.valid) as meet from app.llm_price_overrides as a, app.llm_price_overrides as b
       where a.id = $1 and b.id = $2`,
      [first["override_id"], second["override_id"]],
    );
    expect(meet).toEqual({ meet: true });
  });

  test("one that ends is gone, and in the log; it can be set again", async () => {
    const made = await set("model => 'm', factor => 0.5");
    expect(await end("model => 'm'")).toMatchObject({
      override_id: made["override_id"],
      before_factor: "0.5",
    });
    expect(await shown()).toEqual([]);
    expect((await audits()).at(-1)).toMatchObject({
      action: "llm_price_override_end",
      before: { factor: 0.5 },
      after: null,
    });
    expect(await raised(end("model => 'm'"))).toMatchObject({ name: "argument_invalid" });
    await set("model => 'm', factor => 0.5");
    expect(await stored()).toHaveLength(2);
  });

  test("a dry run shows the same and changes nothing", async () => {
    await set("factor => 0.5");
    const before = [await stored(), await audits()];
    const { override_id: _, ...dry } = await set("factor => 0.8, dry_run => true");
    const dryEnd = await end("dry_run => true");
    expect([await stored(), await audits()]).toEqual(before);
    expect(await set("factor => 0.8")).toMatchObject(dry);
    expect(dryEnd).toMatchObject({ before_factor: "0.5" });
  });

  test("who says which one they saw changes that one alone", async () => {
    const { override_id: first } = await set("factor => 0.5");
    const { override_id: second } = await set(`factor => 0.6, expected_id => '${first}'`);
    const before = await stored();
    for (const outdated of [
      set(`factor => 0.7, expected_id => '${first}'`),
      end(`expected_id => '${first}'`),
    ]) {
      expect(await raised(outdated)).toMatchObject({
        name: "optimistic_lock_failed",
        sqlstate: "VR201",
        detail: { expected: first, found: second },
      });
    }
    expect(await stored()).toEqual(before);
    await end(`expected_id => '${second}'`);
    expect(await shown()).toEqual([]);
  });

  test("however many set it at once, one stands", async () => {
    const outcomes = await Promise.allSettled([1, 2, 3, 4, 5, 6].map((factor) => set(`factor => ${factor}`)));
    expect(outcomes.map(({ status }) => status)).toEqual(Array(6).fill("fulfilled"));
    expect(await shown()).toHaveLength(1);
    expect(await stored()).toHaveLength(6);
  });
});

describe("it refuses, by name, and changes nothing", () => {
  test.each([
    ["neither a price nor a factor", ""],
    ["both", "model => 'm', unit => 'input', factor => 1, usd_per_million => 1"],
    ["a negative factor", "factor => -0.1"],
    ["a factor over 10", "factor => 10.1"],
    ["a factor that is NaN", "factor => 'NaN'"],
    ["a price of every unit", "model => 'm', usd_per_million => 1"],
    ["a price of every model", "unit => 'input', usd_per_million => 1"],
    ["a negative price", "model => 'm', unit => 'input', usd_per_million => -1"],
    ["a price that is too dear", "model => 'm', unit => 'input', usd_per_million => 100001"],
    ["an endless price", "model => 'm', unit => 'input', usd_per_million => 'Infinity'"],
    ["a model that has no price", "model => 'n', factor => 1"],
    ["a unit that the model has no price of", "model => 'm', unit => 'image', usd_per_million => 1"],
    ["a unit that is not known", "unit => 'inputs', factor => 1"],
    ["no model", "model => null, factor => 1"],
    ["no unit", "unit => null, factor => 1"],
  ])("%s", async (_, args) => {
    expect(await raised(set(args))).toMatchObject({ name: "argument_invalid", sqlstate: "OP102" });
    expect([await stored(), await audits()]).toEqual([[], []]);
  });

  test.each([null, "", "nowhere"])("the provider %j", async (by) => {
    expect(await raised(set("factor => 1", { by }))).toMatchObject({ name: "argument_invalid" });
    expect(await raised(end("", { by }))).toMatchObject({ name: "argument_invalid" });
  });

  test("a tenant that is not there, and no reason", async () => {
    for (const called of [set, end]) {
      const args = called === set ? "factor => 1" : "";
      expect(await raised(called(args, { of: "Nobody" }))).toMatchObject({ name: "tenant_not_found" });
      expect(await raised(called(args, { why: " x " }))).toMatchObject({ name: "reason_required" });
    }
    expect(await stored()).toEqual([]);
  });
});

test("a stranger gets nothing: neither the service nor the worker sets what a tenant pays, or sees it", async () => {
  for (const { pool } of [database.service, database.worker]) {
    for (const text of [
      "select ops.llm_price_override_set($1, $2, 'free', factor => 0)",
      "select ops.llm_price_override_end($1, $2, 'free')",
      "select * from ops.llm_price_overrides where tenant = $1 and provider = $2",
    ]) {
      await expect(pool.query(text, [tenant.name, provider])).rejects.toMatchObject({ code: "42501" });
    }
  }
});
