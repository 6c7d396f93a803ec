import { randomUUID } from "node:crypto";
import { afterEach, beforeAll, describe, expect, test } from "vitest";
import {
  askText,
  budgetStatus,
  extend,
  type Hold,
  type HoldRequest,
  presume,
  quote,
  release,
  reserve,
  reserveMany,
  settle,
  settleMany,
  settleText,
  type Usage,
} from "../src/budgets.ts";
import type { Db } from "../src/db.ts";
import { AppError } from "../src/errors.ts";
import { testDatabase } from "./support/database.ts";
import { ledgerOf } from "./support/ledger.ts";
import { runsOf } from "./support/runs.ts";

const database = testDatabase();
const ledger = ledgerOf(database);
let db: Db;

beforeAll(async () => {
  await ledger.setPrices();
  db = database.service;
});
afterEach(async () => {
  expect(await ledger.broken()).toEqual([]);
});

/** What costs 1,000,000 nano-USD at the most: 500 input tokens of 1,000, 250 output tokens of 2,000. */
function asked(more: Partial<HoldRequest> = {}): HoldRequest {
  return {
    idempotencyKey: randomUUID(),
    provider: "p",
    model: "m",
    inputTokensBound: 500,
    maxOutputTokens: 250,
    ...more,
  };
}

const used: Usage = { inputTokens: 100, outputTokens: 20, cachedInputTokens: 0 };

async function tenant(limitUsd = "1"): Promise<string> {
  return (await database.addTenant({ limitUsd })).tenantId;
}

async function setUnlimited(tenantId: string): Promise<void> {
  const text = "update app.llm_budgets set unlimited = true, limit_nanousd = null where tenant_id = $1";
  await database.superuser.query(text, [tenantId]);
}

test("a hold is of the most that a call can cost; a clamped one says what may be sent", async () => {
  const tenantId = await tenant("0.0008");
  expect(await reserve(db, tenantId, asked({ minOutputTokens: 10 }))).toEqual({
    id: expect.any(String),
    status: "RESERVED",
    estimated_cost_nanousd: 800_000n,
    max_output_tokens: 150,
    expires_at: expect.any(Date),
    replayed: false,
  });
  await expect(reserve(db, tenantId, asked())).rejects.toMatchObject({
    code: "budget_exceeded",
    status: 402,
    detail: { reason: "too_large" },
  });
});

test("a hold is known by all that it was asked for", async () => {
  const tenantId = await tenant();
  const runId = await runsOf(database).add(tenantId);
  const facts = { apiKey: "k", userId: "u", tags: ["t1", "t2"], attempt: 3, ttlMs: 60_000, runId };
  const many = (await reserveMany(db, tenantId, [askText(asked(facts))]))[0] as Hold;
  const one = await reserve(db, tenantId, asked(facts));
  for (const { id } of [many, one]) {
    const row = await ledger.hold(id);
    expect(row).toMatchObject({ api_key: "k", user_id: "u", tags: ["t1", "t2"], run_id: runId, attempt: 3 });
    const ttl = row["expires_at"].getTime() - row["created_at"].getTime();
    expect(Math.abs(ttl - 60_000)).toBeLessThan(1_000);
  }
});

test("many are answered in their order; one that is refused has its error in its place", async () => {
  const tenantId = await tenant("0.002");
  const twice = asked();
  const answers = await reserveMany(db, tenantId, [
    askText(twice),
    askText(asked({ model: "unknown" })),
    askText(asked({ inputTokensBound: -1 })),
    askText(asked({ runId: randomUUID() })),
    askText(twice),
    askText(asked({ ...twice, maxOutputTokens: 1 })),
    askText(asked({ maxOutputTokens: 900 })),
    askText(asked()),
    askText(asked()),
  ]);
  expect(answers.map((each) => (each instanceof AppError ? each.code : each.replayed))).toEqual([
    false,
    "no_price",
    "reservation_invalid",
    "job_run_not_found",
    true,
    "idempotency_conflict",
    "budget_exceeded",
    false,
    "budget_exceeded",
  ]);
  expect(answers[4]).toMatchObject({ id: (answers[0] as Hold).id, estimated_cost_nanousd: 1_000_000n });
  expect(answers[0]).not.toHaveProperty("n");
  expect(answers[0]).not.toHaveProperty("refusal");
  expect(answers[6]).toMatchObject({
    status: 402,
    detail: { reason: "too_large", needed_nanousd: "2300000" },
    hint: expect.stringMatching(/limit/),
  });
  expect(answers[8]).toMatchObject({ detail: { reason: "in_flight", scope: "tenant" } });
});

test("every kind of usage is settled, alone and among many", async () => {
  const tenantId = await tenant();
  const usage: Usage = {
    inputTokens: 100,
    outputTokens: 20,
    cachedInputTokens: 30,
    cacheWrite5mTokens: 10,
    cacheWrite1hTokens: 5,
    reasoningTokens: 7,
    source: "estimated",
  };
  const facts = { providerRequestId: "r", responseModel: "m-1", finishReason: "stop", simulated: true };
  const [one, other] = [await reserve(db, tenantId, asked()), await reserve(db, tenantId, asked())];
  const settled = await settle(db, tenantId, one.id, usage, facts);
  const [many] = await settleMany(db, tenantId, [settleText({ reservationId: other.id, usage, facts })]);
  expect(many).toEqual({ ...settled, id: other.id });
  expect(settled).toEqual({
    id: one.id,
    status: "APPLIED",
    cost_nanousd: expect.any(BigInt),
    over_hold_nanousd: 0n,
  });
  for (const { id } of [one, other]) {
    expect(await ledger.usage(id)).toMatchObject([
      {
        cached_input_tokens: "30",
        cache_write_5m_tokens: "10",
        cache_write_1h_tokens: "5",
        reasoning_tokens: "7",
        source: "estimated",
        provider_request_id: "r",
        response_model: "m-1",
        finish_reason: "stop",
        simulated: true,
      },
    ]);
  }
});

test("a stream is settled in parts, and stays held until its last", async () => {
  const tenantId = await tenant();
  const { id } = await reserve(db, tenantId, asked());
  expect(await settle(db, tenantId, id, { ...used, final: false })).toMatchObject({ status: "RESERVED" });
  const last = settleText({ reservationId: id, usage: { ...used, outputTokens: 30 } });
  expect(await settleMany(db, tenantId, [last])).toMatchObject([
    { status: "APPLIED", cost_nanousd: 160_000n },
  ]);
});

test("of many settlements each has its own answer", async () => {
  const tenantId = await tenant();
  const [open, closed] = [await reserve(db, tenantId, asked()), await reserve(db, tenantId, asked())];
  await release(db, tenantId, closed.id, "test");
  const other = await tenant();
  const foreign = await reserve(db, other, asked());
  const answers = await settleMany(
    db,
    tenantId,
    [open.id, closed.id, foreign.id, randomUUID(), open.id].map((reservationId) =>
      settleText({ reservationId, usage: used }),
    ),
  );
  expect(answers).toMatchObject([
    { status: "APPLIED", cost_nanousd: 140_000n },
    { code: "reservation_closed", status: 409, detail: { status: "RELEASED" } },
    { code: "reservation_not_found", status: 404 },
    { code: "reservation_not_found", status: 404 },
    { status: "APPLIED", cost_nanousd: 140_000n },
  ]);
});

test("a hold goes on while its call does, and ends by release or presumption", async () => {
  const tenantId = await tenant();
  const { id, expires_at: before } = await reserve(db, tenantId, asked({ ttlMs: 1_000 }));
  const extended = await extend(db, tenantId, id, 90_000);
  expect(extended).toMatchObject({ id, status: "RESERVED" });
  expect(extended.expires_at.getTime() - before.getTime()).toBeGreaterThan(80_000);
  expect(await presume(db, tenantId, id, "test")).toEqual({ id, status: "PRESUMED" });
  await expect(extend(db, tenantId, id, 90_000)).rejects.toMatchObject({ code: "reservation_closed" });
  await expect(release(db, tenantId, id, "test")).rejects.toMatchObject({ code: "reservation_closed" });
});

test("a quote tells what a hold would cost, or why there would be none, and holds nothing", async () => {
  const tenantId = await tenant("0.0008");
  const { idempotencyKey: _, ...ask } = asked();
  expect(await quote(db, tenantId, ask)).toMatchObject({
    fits: false,
    estimated_cost_nanousd: 1_000_000n,
    granted_output_tokens: null,
    refusal: "budget_exceeded",
    detail: { reason: "too_large", max_affordable_output_tokens: 150 },
  });
  expect(await quote(db, tenantId, { ...ask, minOutputTokens: 1 })).toEqual({
    fits: true,
    estimated_cost_nanousd: 800_000n,
    estimated_cost_usd: "0.0008",
    granted_output_tokens: 150,
    refusal: null,
    detail: null,
    hint: null,
  });
  expect(await quote(db, tenantId, { ...ask, model: "unknown" })).toMatchObject({ refusal: "no_price" });
  expect(await ledger.holdCount(tenantId)).toBe(0);
});

test("budgets say of whom they are; an unlimited one has neither limit nor rest", async () => {
  const tenantId = await tenant("2");
  const month = { scope: "tenant", scope_id: "", period: "month", spent_nanousd: 0n, hard: true };
  expect(await budgetStatus(db, tenantId)).toMatchObject([
    { ...month, limit_nanousd: 2_000_000_000n, left_nanousd: 2_000_000_000n, limit_usd: "2" },
  ]);
  await setUnlimited(tenantId);
  expect(await budgetStatus(db, tenantId)).toMatchObject([
    { ...month, limit_nanousd: null, left_nanousd: null, limit_usd: null, left_usd: null },
  ]);
});

test("a budget that others keep locked is waited for as long as was said, and then is busy", async () => {
  const tenantId = await tenant();
  const { id } = await reserve(db, tenantId, asked());
  const holder = await database.superuser.connect();
  const counted: number[] = [];
  const observe = { batch: () => {}, refused: () => {}, busy: (holds: number) => void counted.push(holds) };
  const impatient: Db = { ...db, budgets: { lockTimeoutMs: 200, observe } };
  const busy = { code: "budget_busy", sqlstate: "LB301", status: 503 };
  try {
    await holder.query("begin");
    await holder.query("select from app.llm_budget_periods where tenant_id = $1 for update", [tenantId]);
    const began = performance.now();
    const asks = [askText(asked()), askText(asked())];
    await expect(reserveMany(impatient, tenantId, asks)).rejects.toMatchObject(busy);
    const settles = [settleText({ reservationId: id, usage: used })];
    await expect(settleMany(impatient, tenantId, settles)).rejects.toMatchObject(busy);
    await expect(release(impatient, tenantId, id, "test")).rejects.toMatchObject(busy);
    await expect(presume(impatient, tenantId, id, "test")).rejects.toMatchObject(busy);
    expect(performance.now() - began).toBeGreaterThan(780);
    expect(performance.now() - began).toBeLessThan(2_700);
    expect(counted).toEqual([2, 1, 1, 1]);
  } finally {
    await holder.query("rollback");
    holder.release();
  }
  expect(await ledger.holdCount(tenantId)).toBe(1);
});

describe("what would make a whole list unreadable is refused by itself", () => {
  const lone = "\ud800";
  test.each<[string, Partial<HoldRequest>, string]>([
    ["a NaN, which JSON would make absent", { images: Number.NaN }, "reservation_invalid"],
    ["an infinity", { maxOutputTokens: Number.POSITIVE_INFINITY }, "reservation_invalid"],
    ["a NUL", { userId: "a\u0000b" }, "reservation_invalid"],
    ["half of a character", { apiKey: `a${lone}` }, "reservation_invalid"],
    ["the other half, in a list", { tags: ["a", "\udfff"] }, "reservation_invalid"],
    ["a run that is none", { runId: "nonsense" }, "job_run_not_found"],
  ])("%s", (_, fault, code) => {
    expect(() => askText(asked(fault))).toThrow(expect.objectContaining({ code }));
  });

  test("a settlement of what is no id is one of no hold; its numbers are finite", () => {
    const of = (reservationId: string, usage: Partial<Usage> = {}) =>
      settleText({ reservationId, usage: { ...used, ...usage } });
    expect(() => of("nonsense")).toThrow(expect.objectContaining({ code: "reservation_not_found" }));
    expect(() => of(randomUUID(), { outputTokens: Number.NaN })).toThrow(
      expect.objectContaining({ code: "reservation_invalid" }),
    );
  });

  test("a text that only looks like it is held as it is", async () => {
    const tenantId = await tenant();
    const tags = ["\\u0000", "\\\\ud800", "C:\\udf", "😀", '"\\"'];
    const held = (await reserveMany(db, tenantId, [askText(asked({ tags }))]))[0] as Hold;
    expect((await ledger.hold(held.id))["tags"]).toEqual(tags);
  });
});
