// src/routes/budget.ts: money held, settled, given back and quoted over HTTP; the database behind it is real.
import { randomBytes, randomUUID } from "node:crypto";
import { Writable } from "node:stream";
import { afterAll, afterEach, beforeAll, describe, expect, test } from "vitest";
import { mintToken } from "../../src/auth.ts";
import { createApp, type HttpApp } from "../../src/http.ts";
import { createLog } from "../../src/log.ts";
import { createMetrics } from "../../src/metrics.ts";
import { testDatabase } from "../support/database.ts";

const config = { jwtSecretKey: randomBytes(32) };
const database = testDatabase();
const lines: string[] = [];
let app: HttpApp["app"];

const sql = async (text: string, values: unknown[] = []) =>
  (await database.superuser.query(text, values)).rows;

beforeAll(async () => {
  const destination = new Writable({
    write(chunk, _encoding, done) {
      lines.push(String(chunk));
      done();
    },
  });
  ({ app } = createApp({
    config,
    db: { ...database.service, budgets: { lockTimeoutMs: 300 } },
    log: createLog({ level: "debug", readable: false, destination }),
    metrics: createMetrics({ version: "1" }),
    llm: { provider: "offline", model: "offline-analyst" },
    ready: async () => ({ ready: true, checks: {} }),
  }));
  // 1,000 and 2,000 nano-USD for a token.
  for (const [unit, rate] of Object.entries({ input: 1, output: 2, cache_write_1h: 1, reasoning: 2 })) {
    await sql(
      `insert into app.llm_prices (provider, model, unit, usd_per_million, valid, source)
       values ('p', 'm', $1, $2, '[2026-01-01,)', 'test')`,
      [unit, rate],
    );
  }
});
afterAll(() => app.close());
afterEach(async () => {
  lines.splice(0);
  expect(await sql("select * from app.llm_check()")).toEqual([]);
});

type Caller = { id: string; name: string; headers: { authorization: string } };

async function tenant(limitUsd: string | null = "10"): Promise<Caller> {
  const { tenantId, name } = await database.addTenant({ limitUsd: limitUsd ?? "0" });
  if (limitUsd === null) await sql("delete from app.llm_budgets where tenant_id = $1", [tenantId]);
  const token = await mintToken(config, { tenantId, subject: "joe", expiresIn: "5m" });
  return { id: tenantId, name, headers: { authorization: `Bearer ${token}` } };
}

async function setLimit(
  { name }: Caller,
  limitUsd: string,
  scope: string,
  scopeId: string,
  period = "month",
) {
  await database.ops.query(
    `select ops.set_limit(tenant => $1, limit_usd => $2, scope => $3, scope_id => $4, period => $5, reason => 'test')`,
    [name, limitUsd, scope, scopeId, period],
  );
}

const post = ({ headers }: Caller, path: string, body: unknown, more: Record<string, string> = {}) =>
  app.inject({
    method: "POST",
    url: `/v1/${path}`,
    headers: { ...headers, "content-type": "application/json", ...more },
    payload: typeof body === "string" ? body : JSON.stringify(body),
  });

/** A hold of 1,000,000 nano-USD. */
const ASK = { provider: "p", model: "m", input_tokens_bound: 500, max_output_tokens: 250 };

const reserve = (caller: Caller, more: object = {}, key: string = randomUUID()) =>
  post(caller, "reservations", { ...ASK, ...more }, { "idempotency-key": key });

async function held(caller: Caller, more: object = {}): Promise<string> {
  const answer = await reserve(caller, more);
  expect(answer.statusCode, answer.body).toBe(201);
  return answer.json().id;
}

/** The tenant's money, in nano-USD. */
async function books({ id }: Caller) {
  const [row] = await sql(
    `select coalesce(sum(spent_nanousd), 0)::int as spent, coalesce(sum(reserved_nanousd), 0)::int as reserved,
       coalesce(sum(presumed_nanousd), 0)::int as presumed
     from app.llm_budget_periods where tenant_id = $1`,
    [id],
  );
  return row;
}
const nothing = { spent: 0, reserved: 0, presumed: 0 };

/** All but what tells one request from another. */
function bytesOf(answer: { statusCode: number; body: string; headers: object }): string {
  const { "x-request-id": request, date: _, ...headers } = answer.headers as Record<string, string>;
  return JSON.stringify([answer.statusCode, headers, answer.body.replaceAll(String(request), "")]);
}

describe("POST /v1/reservations", () => {
  test("holds the most that a call can cost, and says where", async () => {
    const caller = await tenant();
    const answer = await reserve(caller, { ttl_ms: 60_000, user_id: "ann", api_key: "k", tags: ["team=a"] });
    expect(answer.statusCode).toBe(201);
    const { id, expires_at } = answer.json();
    expect(answer.json()).toEqual({
      id: expect.stringMatching(/^[0-9a-f-]{36}$/),
      status: "RESERVED",
      estimated_cost_nanousd: "1000000",
      estimated_cost_usd: "0.001",
      max_output_tokens: 250,
      expires_at: expect.stringMatching(/Z$/),
    });
    expect(answer.headers).toMatchObject({
      location: `/v1/reservations/${id}`,
      "x-holdfast-reserved": "0.001",
    });
    expect(answer.headers).not.toHaveProperty("retry-after");
    expect(Date.parse(expires_at) - Date.now()).toBeLessThanOrEqual(60_000);
    expect(Date.parse(expires_at) - Date.now()).toBeGreaterThan(50_000);
    expect(await books(caller)).toEqual({ ...nothing, reserved: 1_000_000 });
    const [row] = await sql("select * from app.llm_reservations where id = $1", [id]);
    expect(row).toMatchObject({ tenant_id: caller.id, user_id: "ann", api_key: "k", tags: ["team=a"] });
    expect(lines.map((line) => JSON.parse(line))).toContainEqual(
      expect.objectContaining({
        msg: "llm_reserved",
        tenant_id: caller.id,
        subject: "joe",
        reservation_id: id,
        estimated_cost_nanousd: "1000000",
      }),
    );
  });

  test("twice with one key is one hold: 200 with the first, also when all come at once, also after its end", async () => {
    const caller = await tenant();
    const answers = await Promise.all(Array.from({ length: 8 }, () => reserve(caller, {}, "call-1")));
    expect(answers.map((answer) => answer.statusCode).sort()).toEqual([
      200, 200, 200, 200, 200, 200, 200, 201,
    ]);
    expect(new Set(answers.map((answer) => answer.body)).size).toBe(1);
    // Another ttl is the same request: a retry need not know how long the first was to last.
    expect((await reserve(caller, { ttl_ms: 1_000 }, "call-1")).json()).toEqual(answers[0]!.json());
    expect(await books(caller)).toEqual({ ...nothing, reserved: 1_000_000 });
    expect(lines.filter((line) => line.includes("llm_reserved"))).toHaveLength(1);

    const { id } = answers[0]!.json();
    await post(caller, `reservations/${id}/settle`, { input_tokens: 1, output_tokens: 1 });
    const late = await reserve(caller, {}, "call-1");
    expect([late.statusCode, late.json().id, late.json().status]).toEqual([200, id, "APPLIED"]);
  });

  test("a key belongs to one request of one tenant; it may come in the body", async () => {
    const [caller, other] = [await tenant(), await tenant()];
    const first = await post(caller, "reservations", { ...ASK, idempotency_key: "k" });
    expect(first.statusCode).toBe(201);
    expect((await reserve(caller, { idempotency_key: "k" }, "k")).json()).toEqual(first.json());
    const conflict = await reserve(caller, { max_output_tokens: 251 }, "k");
    expect([conflict.statusCode, conflict.json().code]).toEqual([422, "idempotency_conflict"]);
    expect(conflict.body).not.toContain(first.json().id);
    const theirs = await reserve(other, {}, "k");
    expect([theirs.statusCode, theirs.json().id === first.json().id]).toEqual([201, false]);
    expect(await books(caller)).toEqual({ ...nothing, reserved: 1_000_000 });
  });

  test.each<[string, Record<string, string>, object, RegExp]>([
    ["no key", {}, {}, /^header.idempotency-key: required/],
    ["two keys", { "idempotency-key": "a" }, { idempotency_key: "b" }, /^body.idempotency_key: another/],
    ["a key of a run", { "idempotency-key": "run:1:1:1" }, {}, /^header.idempotency-key: those/],
    ["a key of a run in the body", {}, { idempotency_key: "run:1:1:1" }, /^header.idempotency-key: those/],
    ["an empty key", {}, { idempotency_key: "" }, /^body.idempotency_key: /],
    ["a key too long", { "idempotency-key": "k".repeat(256) }, {}, /^header.idempotency-key: /],
    ["a key with a space", { "idempotency-key": "a b" }, {}, /^header.idempotency-key: /],
  ])("%s is 400", async (_, headers, more, fault) => {
    const caller = await tenant();
    const answer = await post(caller, "reservations", { ...ASK, ...more }, headers);
    expect([answer.statusCode, answer.json().code]).toEqual([400, "invalid_request"]);
    expect(answer.json().faults).toEqual([expect.stringMatching(fault)]);
    expect(await books(caller)).toEqual(nothing);
  });

  test("a hold is clamped where that is allowed, and says to what", async () => {
    const caller = await tenant("0.0008");
    expect((await reserve(caller)).statusCode).toBe(402);
    const answer = await reserve(caller, { min_output_tokens: 100 });
    expect(answer.statusCode).toBe(201);
    expect(answer.json()).toMatchObject({ max_output_tokens: 150, estimated_cost_nanousd: "800000" });
    expect(await books(caller)).toEqual({ ...nothing, reserved: 800_000 });
  });

  test("an open budget admits no more than it holds, however many ask at once", async () => {
    const caller = await tenant("0.005");
    const answers = await Promise.all(Array.from({ length: 30 }, () => reserve(caller)));
    expect(answers.filter((answer) => answer.statusCode === 201)).toHaveLength(5);
    for (const refused of answers.filter((answer) => answer.statusCode !== 201)) {
      expect([refused.statusCode, refused.json().reason]).toEqual([402, "in_flight"]);
    }
    expect(await books(caller)).toEqual({ ...nothing, reserved: 5_000_000 });
  });
});

describe("402, for a person and for a client of OpenAI's", () => {
  test("a budget that calls in flight have taken: both shapes, exact money, and when to come again", async () => {
    const caller = await tenant("0.0015");
    const spent = await held(caller, { input_tokens_bound: 1, max_output_tokens: 100 });
    await post(caller, `reservations/${spent}/settle`, { input_tokens: 1, output_tokens: 100 });
    await held(caller);
    const answer = await reserve(caller);
    expect(answer.statusCode).toBe(402);
    expect(answer.headers["content-type"]).toMatch(/^application\/problem\+json/);
    expect(answer.headers["retry-after"]).toBe("2");
    const facts = {
      reason: "in_flight",
      scope: "tenant",
      period: "month",
      period_end: expect.stringMatching(/^\d{4}-\d\d-01T00:00:00\.000Z$/),
      limit_nanousd: "1500000",
      spent_nanousd: "201000",
      reserved_nanousd: "1000000",
      presumed_nanousd: "0",
      needed_nanousd: "1000000",
      max_affordable_output_tokens: 0,
    };
    expect(answer.json()).toMatchObject({
      type: "urn:holdfast:problem:budget_exceeded",
      title: "Budget exceeded",
      status: 402,
      code: "budget_exceeded",
      instance: answer.headers["x-request-id"],
      hint: expect.any(String),
      ...facts,
    });
    expect(answer.json().error).toEqual({
      type: "insufficient_quota",
      code: "budget_exceeded",
      message: `Budget exceeded. ${answer.json().hint}`,
      meta: {
        ...facts,
        scope_id: "",
        limit: "0.0015",
        spent: "0.000201",
        reserved: "0.001",
        presumed: "0",
        needed: "0.001",
      },
    });
    expect(answer.body).not.toContain(caller.id);
  });

  test("how many tokens would fit is said, and they do", async () => {
    const caller = await tenant("0.0008");
    const refused = await reserve(caller);
    expect(refused.json().error.meta).toMatchObject({
      reason: "too_large",
      max_affordable_output_tokens: 150,
    });
    expect(refused.headers).not.toHaveProperty("retry-after");
    expect((await reserve(caller, { max_output_tokens: 151 })).statusCode).toBe(402);
    expect((await reserve(caller, { max_output_tokens: 150 })).statusCode).toBe(201);
  });

  test.each<[string, string | null, object, string, string]>([
    ["no budget", null, {}, "budget_exceeded", "no_budget"],
    ["a budget of zero", "0", {}, "budget_exceeded", "zero"],
    ["a call above the limit", "0.0001", {}, "budget_exceeded", "too_large"],
    ["an unknown model", "10", { model: "unheard of" }, "no_price", "no_price"],
    ["an unknown provider", "10", { provider: "nobody" }, "no_price", "no_price"],
    ["a tier without a price", "10", { service_tier: "priority" }, "no_price", "no_price"],
    ["images without a price", "10", { images: 1 }, "no_price", "no_price"],
    ["tools without a price", "10", { tool_calls: 1 }, "no_price", "no_price"],
  ])("%s: named, and waiting does not help", async (_, limit, more, code, reason) => {
    const caller = await tenant(limit);
    const answer = await reserve(caller, more);
    expect(answer.statusCode).toBe(402);
    expect(answer.headers).not.toHaveProperty("retry-after");
    expect(answer.json()).toMatchObject({
      code,
      hint: expect.any(String),
      error: { type: "insufficient_quota", code, message: expect.any(String), meta: { reason } },
    });
    expect(await books(caller)).toEqual(nothing);
  });

  test("a budget that is spent is refused until its period ends, which a total never does", async () => {
    const caller = await tenant(null);
    await setLimit(caller, "0.001", "tenant", "", "total");
    const id = await held(caller);
    await post(caller, `reservations/${id}/settle`, { input_tokens: 500, output_tokens: 250 });
    const answer = await reserve(caller);
    expect(answer.json().error.meta).toMatchObject({
      reason: "exhausted",
      period: "total",
      period_end: null,
    });
    expect(answer.json().period_end).toBeNull();
    expect(answer.headers).not.toHaveProperty("retry-after");
  });

  test.each<[string, string, object]>([
    ["api_key", "key-1", { api_key: "key-1" }],
    ["user", "ann", { user_id: "ann" }],
    ["model", "p/m", {}],
    ["tag", "team=a", { tags: ["team=b", "team=a"] }],
  ])("the %s that is at its limit is named, and no other is held up", async (scope, scopeId, more) => {
    const caller = await tenant();
    await setLimit(caller, "0.0009", scope, scopeId);
    const answer = await reserve(caller, more);
    expect(answer.json().error.meta).toMatchObject({
      scope,
      scope_id: scopeId,
      reason: "too_large",
      limit: "0.0009",
    });
    if (scope !== "model") expect((await reserve(caller)).statusCode).toBe(201);
  });

  test("a budget that others keep locked is 503 for a second, and counts nothing", async () => {
    const caller = await tenant();
    await held(caller);
    const client = await database.superuser.connect();
    await client.query("begin");
    await client.query("select from app.llm_budget_periods where tenant_id = $1 for update", [caller.id]);
    const refused = await reserve(caller);
    await client.query("rollback");
    client.release();
    expect([refused.statusCode, refused.json().code, refused.headers["retry-after"]]).toEqual([
      503,
      "budget_busy",
      "1",
    ]);
    expect(refused.json()).not.toHaveProperty("error");
    expect(await books(caller)).toEqual({ ...nothing, reserved: 1_000_000 });
    expect((await reserve(caller)).statusCode).toBe(201);
  });
});

describe("the end of a hold", () => {
  test("a settle replaces it by what the call has cost, once", async () => {
    const caller = await tenant();
    const id = await held(caller);
    const used = { input_tokens: 100, output_tokens: 20, reasoning_tokens: 5, provider_request_id: "x-1" };
    const settled = await post(caller, `reservations/${id}/settle`, used);
    expect(settled.statusCode).toBe(200);
    expect(settled.headers["x-holdfast-spent"]).toBe("0.00014");
    expect(settled.json()).toEqual({
      id,
      status: "APPLIED",
      cost_nanousd: "140000",
      over_hold_nanousd: "0",
      cost_usd: "0.00014",
      over_hold_usd: "0",
    });
    expect((await post(caller, `reservations/${id}/settle`, used)).json()).toEqual(settled.json());
    const other = await post(caller, `reservations/${id}/settle`, { ...used, output_tokens: 21 });
    expect([other.statusCode, other.json().code]).toEqual([409, "reservation_closed"]);
    const back = await post(caller, `reservations/${id}/release`, { reason: "not sent" });
    expect([back.statusCode, back.json().code]).toEqual([409, "reservation_closed"]);
    const longer = await post(caller, `reservations/${id}/extend`, { ttl_ms: 1_000 });
    expect([longer.statusCode, longer.json().code]).toEqual([409, "reservation_closed"]);
    expect(await books(caller)).toEqual({ ...nothing, spent: 140_000 });
    const [usage] = await sql("select * from app.llm_usage where reservation_id = $1", [id]);
    expect(usage).toMatchObject({ provider_request_id: "x-1", reasoning_tokens: "5", simulated: false });
  });

  test("what is above the hold is recorded, and told", async () => {
    const caller = await tenant();
    const id = await held(caller);
    const settled = await post(caller, `reservations/${id}/settle`, {
      input_tokens: 500,
      output_tokens: 300,
    });
    expect(settled.json()).toMatchObject({
      cost_nanousd: "1100000",
      over_hold_nanousd: "100000",
      over_hold_usd: "0.0001",
    });
    const line = lines.map((each) => JSON.parse(each)).find((each) => each.msg === "llm_settled");
    expect(line).toMatchObject({ level: "warn", reservation_id: id, over_hold_nanousd: "100000" });
  });

  test("a stream settles in parts", async () => {
    const caller = await tenant();
    const id = await held(caller);
    const part = await post(caller, `reservations/${id}/settle`, {
      input_tokens: 100,
      output_tokens: 0,
      final: false,
    });
    expect([part.statusCode, part.json().status]).toEqual([200, "RESERVED"]);
    const back = await post(caller, `reservations/${id}/release`, { reason: "not sent" });
    expect(back.json().code).toBe("reservation_closed");
    await post(caller, `reservations/${id}/settle`, {
      input_tokens: 100,
      output_tokens: 20,
      source: "estimated",
    });
    expect(await books(caller)).toEqual({ ...nothing, spent: 140_000 });
  });

  test("every kind of use is written down, and who counted it", async () => {
    const caller = await tenant();
    const kinds = {
      input_tokens: 100,
      output_tokens: 20,
      cached_input_tokens: 10,
      cache_write_5m_tokens: 20,
      cache_write_1h_tokens: 30,
      reasoning_tokens: 5,
      images: 2,
      tool_calls: 3,
    };
    const id = await held(caller);
    const named = { source: "estimated", response_model: "m-1", finish_reason: "stop" };
    const settled = await post(caller, `reservations/${id}/settle`, { ...kinds, ...named });
    expect(settled.statusCode, settled.body).toBe(200);
    const [usage] = await sql("select * from app.llm_usage where reservation_id = $1", [id]);
    expect(usage).toMatchObject(named);
    const counted = Object.keys(kinds).map((kind) => [kind, Number(usage[kind])]);
    expect(Object.fromEntries(counted)).toEqual(kinds);
  });

  test("a release gives it back, once; a reason is required", async () => {
    const caller = await tenant();
    const id = await held(caller);
    for (const body of [{}, { reason: "" }, { reason: "no" }, { reason: 7 }, { reason: "a\u0000bc" }]) {
      const answer = await post(caller, `reservations/${id}/release`, body);
      expect([answer.statusCode, answer.json().code]).toEqual([400, "invalid_request"]);
      expect(answer.json().faults[0]).toMatch(/^body\.reason: /);
    }
    expect(await books(caller)).toEqual({ ...nothing, reserved: 1_000_000 });
    for (const _ of [1, 2]) {
      const answer = await post(caller, `reservations/${id}/release`, {
        reason: "the provider refused: 429",
      });
      expect([answer.statusCode, answer.json()]).toEqual([200, { id, status: "RELEASED" }]);
    }
    const settled = await post(caller, `reservations/${id}/settle`, { input_tokens: 1, output_tokens: 1 });
    expect([settled.statusCode, settled.json().code]).toEqual([409, "reservation_closed"]);
    expect(await books(caller)).toEqual(nothing);
  });

  test("an extension lets it live on; a hold past its time is settled, and not extended", async () => {
    const caller = await tenant();
    const id = await held(caller, { ttl_ms: 100 });
    const extended = await post(caller, `reservations/${id}/extend`, { ttl_ms: 60_000 });
    expect(extended.statusCode, extended.body).toBe(200);
    expect(extended.json()).toEqual({ id, status: "RESERVED", expires_at: expect.stringMatching(/Z$/) });
    expect(Date.parse(extended.json().expires_at) - Date.now()).toBeGreaterThan(50_000);

    const lapsed = await held(caller, { ttl_ms: 1 });
    await new Promise((resolve) => setTimeout(resolve, 20));
    const late = await post(caller, `reservations/${lapsed}/extend`, { ttl_ms: 60_000 });
    expect([late.statusCode, late.json().code]).toEqual([409, "reservation_closed"]);
    const settled = await post(caller, `reservations/${lapsed}/settle`, {
      input_tokens: 1,
      output_tokens: 1,
    });
    expect(settled.json()).toMatchObject({ status: "APPLIED", cost_nanousd: "3000" });
  });

  const ENDS: Record<string, object> = {
    settle: { input_tokens: 1, output_tokens: 1 },
    release: { reason: "not sent" },
    extend: { ttl_ms: 1_000 },
  };

  test.each(Object.keys(ENDS))("to %s, another tenant's hold is not there, byte for byte", async (act) => {
    const [mine, theirs] = [await tenant(), await tenant()];
    const id = await held(theirs);
    const answers = await Promise.all(
      [id, randomUUID()].map((each) => post(mine, `reservations/${each}/${act}`, ENDS[act])),
    );
    expect(answers[0]!.statusCode).toBe(404);
    expect(answers[0]!.json().code).toBe("reservation_not_found");
    expect(bytesOf(answers[0]!)).toBe(bytesOf(answers[1]!));
    expect(await books(theirs)).toEqual({ ...nothing, reserved: 1_000_000 });
  });

  test.each(Object.keys(ENDS))("to %s, an id that is none is 400, and a stranger is 401", async (act) => {
    const caller = await tenant();
    const answer = await post(caller, `reservations/1 or true/${act}`, ENDS[act]);
    expect([answer.statusCode, answer.json().faults]).toEqual([400, [expect.stringMatching(/^path\.id: /)]]);
    const nobody = { ...caller, headers: { authorization: "Bearer a.b.c" } };
    expect((await post(nobody, `reservations/${randomUUID()}/${act}`, ENDS[act])).statusCode).toBe(401);
  });
});

test("to hold, to quote and to look, a stranger is 401", async () => {
  const nobody = { ...(await tenant()), headers: { authorization: "" } };
  expect((await reserve(nobody)).statusCode).toBe(401);
  expect((await post(nobody, "quote", ASK)).statusCode).toBe(401);
  expect((await app.inject({ url: "/v1/budget" })).statusCode).toBe(401);
});

describe("POST /v1/quote", () => {
  test("says what a hold would cost, or why there is none, and holds nothing", async () => {
    const caller = await tenant("0.0015");
    const fits = await post(caller, "quote", ASK);
    expect([fits.statusCode, fits.json()]).toEqual([
      200,
      {
        fits: true,
        estimated_cost_nanousd: "1000000",
        estimated_cost_usd: "0.001",
        granted_output_tokens: 250,
        refusal: null,
        detail: null,
        hint: expect.toSatisfy((hint) => hint === null || typeof hint === "string"),
      },
    ]);
    expect(await books(caller)).toEqual(nothing);
    await held(caller);
    const not = (await post(caller, "quote", ASK)).json();
    expect(not).toMatchObject({
      fits: false,
      granted_output_tokens: null,
      refusal: "budget_exceeded",
      detail: { reason: "in_flight", limit_nanousd: "1500000" },
      hint: expect.any(String),
    });
    const clamped = await post(caller, "quote", { ...ASK, input_tokens_bound: 100, min_output_tokens: 1 });
    expect(clamped.json()).toMatchObject({ fits: true, granted_output_tokens: 200 });
    expect((await post(caller, "quote", { ...ASK, model: "x" })).json().refusal).toBe("no_price");
    expect(await books(caller)).toEqual({ ...nothing, reserved: 1_000_000 });
  });

  test("of a stranger's budget it knows nothing", async () => {
    const [mine, theirs] = [await tenant(null), await tenant("10")];
    await held(theirs);
    expect((await post(mine, "quote", ASK)).json()).toMatchObject({
      fits: false,
      detail: { reason: "no_budget" },
    });
  });

  test("what SQL finds wrong is 400", async () => {
    const answer = await post(await tenant(), "quote", { ...ASK, min_output_tokens: 251 });
    expect([answer.statusCode, answer.json().code]).toEqual([400, "reservation_invalid"]);
    expect(answer.json().hint).toMatch(/^min_output_tokens is 1 to max_output_tokens/);
  });
});

test("GET /v1/budget lists every scope in its period, and what is unlimited as such", async () => {
  const caller = await tenant("1");
  await setLimit(caller, "0.5", "user", "ann", "day");
  await database.ops.query(
    `select ops.set_limit(tenant => $1, limit_usd => null, unlimited => true, scope => 'tag', scope_id => 'x', reason => 'test')`,
    [caller.name],
  );
  await held(caller, { user_id: "ann" });
  const { budgets } = (await app.inject({ url: "/v1/budget", headers: caller.headers })).json();
  const by = (scope: string) => budgets.find((each: { scope: string }) => each.scope === scope);
  expect(budgets).toHaveLength(3);
  expect(by("tenant")).toMatchObject({
    scope_id: "",
    limit_usd: "1",
    reserved_usd: "0.001",
    left_usd: "0.999",
  });
  expect(by("user")).toMatchObject({ scope_id: "ann", period: "day", left_nanousd: "499000000" });
  expect(by("tag")).toMatchObject({ scope_id: "x", limit_nanousd: null, left_usd: null, spent_usd: "0" });
  const other = await tenant(null);
  expect((await app.inject({ url: "/v1/budget", headers: other.headers })).json()).toEqual({ budgets: [] });
});

describe("bad input changes nothing", () => {
  const NUMBERS: [string, string][] = [
    ["negative", "-1"],
    ["a fraction", "1.5"],
    ["1e400, which JSON.parse reads as infinite", "1e400"],
    ["minus that", "-1e400"],
    ["huge", "1e15"],
    ["beyond every integer", "123456789012345678901234567890"],
    ["just too large", "100000001"],
    ["a text", '"5"'],
    ["a list", "[5]"],
    ["true", "true"],
    ["null", "null"],
  ];
  const FIELDS: [string, string, object][] = [
    ["reservations", "input_tokens_bound", ASK],
    ["reservations", "max_output_tokens", ASK],
    ["reservations", "min_output_tokens", ASK],
    ["reservations", "images", ASK],
    ["reservations", "tool_calls", ASK],
    ["reservations", "ttl_ms", ASK],
    ["quote", "input_tokens_bound", ASK],
    ["settle", "input_tokens", { output_tokens: 1 }],
    ["settle", "output_tokens", { input_tokens: 1 }],
    ["settle", "cached_input_tokens", { input_tokens: 1, output_tokens: 1 }],
    ["settle", "cache_write_5m_tokens", { input_tokens: 1, output_tokens: 1 }],
    ["settle", "cache_write_1h_tokens", { input_tokens: 1, output_tokens: 1 }],
    ["settle", "reasoning_tokens", { input_tokens: 1, output_tokens: 1 }],
    ["settle", "images", { input_tokens: 1, output_tokens: 1 }],
    ["extend", "ttl_ms", {}],
  ];

  test.each(FIELDS)("%s: %s is a whole number", async (route, field, rest) => {
    const caller = await tenant();
    const id = await held(caller);
    const path = ["settle", "extend"].includes(route) ? `reservations/${id}/${route}` : route;
    for (const [what, number] of NUMBERS) {
      const body = `${JSON.stringify(rest).replace(/}$/, Object.keys(rest).length > 0 ? "," : "")}"${field}":${number}}`;
      const answer = await post(caller, path, body, { "idempotency-key": randomUUID() });
      expect([what, answer.statusCode, answer.json().code]).toEqual([what, 400, "invalid_request"]);
      const paths = answer.json().faults.map((fault: string) => fault.split(": ")[0]);
      expect(new Set(paths)).toEqual(new Set([`body.${field}`]));
    }
    expect(await books(caller)).toEqual({ ...nothing, reserved: 1_000_000 });
  });

  test.each(["NaN", "Infinity", "-Infinity", "1e", "+1", "0x10", "01"])("%s is no JSON", async (number) => {
    const caller = await tenant();
    const body = `{"provider":"p","model":"m","max_output_tokens":1,"input_tokens_bound":${number}}`;
    const answer = await post(caller, "reservations", body, { "idempotency-key": "k" });
    expect([answer.statusCode, answer.json().code]).toEqual([400, "invalid_request"]);
  });

  test("zero: no call without input, no hold without time; an answer of nothing is one", async () => {
    const caller = await tenant();
    for (const more of [{ input_tokens_bound: 0 }, { ttl_ms: 0 }, { min_output_tokens: 0 }]) {
      const answer = await reserve(caller, more);
      expect([answer.statusCode, answer.json().faults]).toEqual([
        400,
        [expect.stringMatching(`^body.${Object.keys(more)[0]}: `)],
      ]);
    }
    expect((await reserve(caller, { max_output_tokens: 0 })).statusCode).toBe(201);
    const id = await held(caller);
    const free = await post(caller, `reservations/${id}/settle`, { input_tokens: 0, output_tokens: 0 });
    expect(free.json()).toMatchObject({ status: "APPLIED", cost_nanousd: "0", cost_usd: "0" });
  });

  test.each<[string, object]>([
    ["body.model", { model: "a\u0000b" }],
    ["body.model", { model: "\ud800" }],
    ["body.model", { model: "" }],
    ["body.provider", { provider: "p".repeat(201) }],
    ["body.user_id", { user_id: "a\nb" }],
    ["body.tags.1", { tags: ["a", ""] }],
    ["body.tags", { tags: Array(21).fill("a") }],
    ["body.service_tier", { service_tier: "fast" }],
    ["body", { tenant_id: randomUUID() }],
    ["body", { run_id: randomUUID() }],
    ["body", { estimated_cost_nanousd: 1 }],
  ])("%s is refused: %j", async (path, more) => {
    const caller = await tenant();
    const answer = await reserve(caller, more);
    expect([answer.statusCode, answer.json().code]).toEqual([400, "invalid_request"]);
    expect(answer.json().faults).toEqual([expect.stringMatching(`^${path}: `)]);
    expect(await books(caller)).toEqual(nothing);
  });

  test("kinds of tokens that cannot be true are refused by SQL, and nothing is settled", async () => {
    const caller = await tenant();
    const id = await held(caller);
    for (const more of [
      { cached_input_tokens: 11 },
      { cache_write_5m_tokens: 6, cache_write_1h_tokens: 5 },
      { reasoning_tokens: 11 },
    ]) {
      const answer = await post(caller, `reservations/${id}/settle`, {
        input_tokens: 10,
        output_tokens: 10,
        ...more,
      });
      expect([answer.statusCode, answer.json().code]).toEqual([400, "reservation_invalid"]);
    }
    expect(await books(caller)).toEqual({ ...nothing, reserved: 1_000_000 });
  });

  test("of a key that comes twice the last counts, at every depth, and SQL never sees the first", async () => {
    const caller = await tenant();
    const body = `{"provider":"nobody","model":"m","input_tokens_bound":1,"max_output_tokens":99999999,"tags":["first"],
      "max_output_tokens":250,"provider":"p","input_tokens_bound":500,"tags":["last"],"user_id":"a","user_id":"b"}`;
    const answer = await post(caller, "reservations", body, { "idempotency-key": "twice" });
    expect([answer.statusCode, answer.json().estimated_cost_nanousd]).toEqual([201, "1000000"]);
    const [row] = await sql("select * from app.llm_reservations where id = $1", [answer.json().id]);
    expect(row).toMatchObject({ provider: "p", tags: ["last"], user_id: "b", max_output_tokens: "250" });
    // It is the same request as one that says it once: what SQL was given is what was read.
    const once = { tags: ["last"], user_id: "b" };
    expect((await reserve(caller, once, "twice")).json()).toEqual(answer.json());

    const path = `reservations/${answer.json().id}/settle`;
    const settled = await post(
      caller,
      path,
      '{"input_tokens":1,"output_tokens":9,"input_tokens":2,"output_tokens":3}',
    );
    expect(settled.json().cost_nanousd).toBe("8000");
    // The last is also the one that is looked at: a good one before it does not help.
    const bad = await post(
      caller,
      "reservations",
      `{"max_output_tokens":1,${JSON.stringify(ASK).slice(1, -1)},"max_output_tokens":-1}`,
      { "idempotency-key": "bad" },
    );
    expect(bad.json().faults).toEqual([expect.stringMatching("^body.max_output_tokens: ")]);
  });

  test("a prototype is no field", async () => {
    const caller = await tenant();
    for (const poison of ['"__proto__":{"ttl_ms":1}', '"constructor":{"prototype":{"ttl_ms":1}}']) {
      const body = `${JSON.stringify(ASK).slice(0, -1)},${poison}}`;
      const answer = await post(caller, "reservations", body, { "idempotency-key": "k" });
      expect([answer.statusCode, answer.json().code]).toEqual([400, "invalid_request"]);
    }
    expect(await books(caller)).toEqual(nothing);
  });

  test("a client ends no hold of a run: it is as one that is not there", async () => {
    const caller = await tenant();
    const answer = await reserve(caller, {}, "of-a-run");
    const { id } = answer.json();
    await sql("update app.llm_reservations set run_id = gen_random_uuid() where id = $1", [id]);
    const bodies = {
      settle: { input_tokens: 0, output_tokens: 0 },
      release: { reason: "not mine" },
      extend: { ttl_ms: 9_000 },
    };
    for (const [act, body] of Object.entries(bodies)) {
      const [theirs, absent] = await Promise.all(
        [id, randomUUID()].map((each) => post(caller, `reservations/${each}/${act}`, JSON.stringify(body))),
      );
      expect([theirs!.statusCode, theirs!.json().code]).toEqual([404, "reservation_not_found"]);
      expect(Object.keys(theirs!.json())).toEqual(Object.keys(absent!.json()));
    }
    expect(await sql("select status from app.llm_reservations where id = $1", [id])).toEqual([
      { status: "RESERVED" },
    ]);
  });
});
