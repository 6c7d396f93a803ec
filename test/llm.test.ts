import { createServer, type Socket } from "node:net";
import { setTimeout as sleep } from "node:timers/promises";
import { afterEach, describe, expect, test } from "vitest";
import { endOfCalls } from "../src/llm/open_calls.ts";
import { inputTokensBound, MESSAGE_TOKENS, REQUEST_TOKENS } from "../src/llm/request.ts";
import {
  budgetedFetch,
  ModelCallError,
  OFFLINE,
  providerOf,
  retryAfterMs,
  retryingFetch,
} from "../src/llm.ts";
import {
  type Answer,
  anotherDb,
  completion,
  endScenes,
  json,
  providers,
  type Scene,
  scene,
  sql,
  startProvider,
} from "./support/llm_scene.ts";

afterEach(endScenes);

const MESSAGES = [{ role: "user", content: "Word these findings." }];

function bodyOf(extra: object = {}): string {
  return JSON.stringify({ model: "small", max_tokens: 50, messages: MESSAGES, ...extra });
}

function send({ llm, tenantId, attempt, provider }: Scene, body = bodyOf()): Promise<Response> {
  return post(budgetedFetch(llm, tenantId, attempt), provider, body);
}

function sendWithRetries({ llm, tenantId, attempt, provider }: Scene, body = bodyOf()): Promise<Response> {
  return post(retryingFetch(llm, tenantId, attempt), provider, body);
}

function post(
  fetch: typeof globalThis.fetch,
  provider: { baseUrl: string },
  body: string,
): Promise<Response> {
  const headers = { "content-type": "application/json", authorization: "Bearer sk-secret" };
  return fetch(`${provider.baseUrl}/chat/completions`, { method: "POST", headers, body });
}

const ok: Answer = (response) => json(response, completion("words"));

describe("budgetedFetch, when the provider answers", () => {
  test("holds the bound before the call, and settles what was used after it", async () => {
    const world = await scene(async (response) => {
      const [hold] = await world.holds();
      expect(hold?.status).toBe("RESERVED");
      json(response, completion("words", { prompt_tokens: 100, completion_tokens: 20, total_tokens: 120 }));
    });
    const response = await send(world);
    expect(await response.json()).toMatchObject({ choices: [{ message: { content: "words" } }] });

    const sent = world.provider.hits[0]?.body ?? "";
    const bound = Buffer.byteLength(sent) + REQUEST_TOKENS + MESSAGE_TOKENS;
    expect(await world.holds()).toEqual([{ status: "APPLIED", reason: null, attempt: 1, bound, max: 50 }]);
    expect(await world.budget()).toEqual({ spent: 100 * 1_000 + 20 * 2_000, reserved: 0, presumed: 0 });
    expect(world.observed).toEqual([
      {
        status: "ok",
        seconds: expect.any(Number),
        usage: { inputTokens: 100, outputTokens: 20, cachedInputTokens: 0 },
      },
    ]);
    expect(world.checks).toHaveLength(1);

    const [usage] = await sql("select * from app.llm_usage where tenant_id = $1", [world.tenantId]);
    expect(usage).toMatchObject({
      run_id: world.attempt.runId,
      model: "small",
      response_model: "small-2026-01-01",
      provider_request_id: "chatcmpl-1",
      finish_reason: "stop",
      simulated: false,
    });
  });

  test("logs the hold before the call and its end after it, by the id, and nothing that was said", async () => {
    const world = await scene((response, _hit, nth) =>
      nth === 1 ? json(response, completion("words")) : json(response, {}, nth === 2 ? 400 : 500),
    );
    const fetch = budgetedFetch(world.llm, world.tenantId, world.attempt);
    for (const _ of [1, 2, 3]) await post(fetch, world.provider, bodyOf());

    const names = world.lines.map((line) => line.msg);
    expect(names).toEqual([
      "llm_reserved",
      "llm_settled",
      "llm_reserved",
      "llm_released",
      "llm_reserved",
      "llm_presumed",
    ]);
    const ids = await sql("select id from app.llm_reservations where tenant_id = $1 order by id", [
      world.tenantId,
    ]);
    const logged = world.lines.map((line) => line["reservation_id"]);
    expect(logged).toEqual(ids.flatMap(({ id }) => [id, id]));
    const facts = { tenant_id: world.tenantId, run_id: world.attempt.runId, attempt: 1, model: "small" };
    for (const line of world.lines) expect(line).toMatchObject(facts);
    expect(world.lines[0]?.["estimated_cost_nanousd"]).toMatch(/^\d+$/);
    expect(world.counted).toEqual({ overHolds: 0 });
    expect(world.lines[1]).toMatchObject({
      level: 30,
      cost_nanousd: "140000",
      over_hold_nanousd: "0",
      input_tokens: 100,
    });
    expect(world.lines[3]).toMatchObject({ reason: "http_400" });
    expect(world.lines[5]).toMatchObject({ reason: "http_500" });
    expect(JSON.stringify(world.lines)).not.toMatch(/findings|words|sk-secret/);
  });

  test("counts cached tokens as part of the input, at their own price", async () => {
    const usage = { prompt_tokens: 100, completion_tokens: 10, prompt_tokens_details: { cached_tokens: 80 } };
    const world = await scene((response) => json(response, completion("words", usage)));
    await send(world);
    expect((await world.budget()).spent).toBe(20 * 1_000 + 80 * 100 + 10 * 2_000);
  });

  test("does not believe more cached tokens than were sent, and finds reasoning in the total", async () => {
    const usage = {
      prompt_tokens: 100,
      completion_tokens: 10,
      total_tokens: 140,
      prompt_tokens_details: { cached_tokens: 101 },
    };
    const world = await scene((response) => json(response, completion("words", usage)));
    await send(world);
    expect((await world.budget()).spent).toBe(100 * 1_000 + 40 * 2_000);
  });

  test("takes a zero for a zero", async () => {
    const world = await scene((response) =>
      json(response, completion("words", { prompt_tokens: 0, completion_tokens: 0 })),
    );
    await send(world);
    expect((await world.holds())[0]?.status).toBe("APPLIED");
    expect(await world.budget()).toEqual({ spent: 0, reserved: 0, presumed: 0 });
  });

  test("records what is above the hold", async () => {
    const world = await scene((response) =>
      json(response, completion("words", { prompt_tokens: 5_000, completion_tokens: 900 })),
    );
    await send(world);
    const spent = 5_000 * 1_000 + 900 * 2_000;
    expect((await world.budget()).spent).toBe(spent);
    const [usage] = await sql(
      "select over_hold_nanousd::int as over from app.llm_usage where tenant_id = $1",
      [world.tenantId],
    );
    const [hold] = await world.holds();
    expect(usage.over).toBe(spent - (hold?.bound ?? 0) * 1_000 - 50 * 2_000);
    expect(world.lines.at(-1)).toMatchObject({
      level: 40,
      msg: "llm_settled",
      over_hold_nanousd: String(usage.over),
    });
    expect(world.counted).toEqual({ overHolds: 1 });
  });

  test("presumes the hold of an answer that does not say what it used, and hands it on", async () => {
    const bodies = [
      completion("words", null),
      { ...completion("words"), usage: null },
      { ...completion("words"), usage: { prompt_tokens: 10 } },
      { ...completion("words"), usage: { prompt_tokens: -1, completion_tokens: 1 } },
      { ...completion("words"), usage: { prompt_tokens: 1.5, completion_tokens: 1 } },
      { ...completion("words"), usage: { prompt_tokens: 1e12, completion_tokens: 1 } },
      "<html>",
    ];
    const world = await scene((response, _hit, nth) => json(response, bodies[nth - 1]));
    const fetch = budgetedFetch(world.llm, world.tenantId, world.attempt);
    for (const body of bodies)
      expect(await (await post(fetch, world.provider, bodyOf())).json()).toEqual(body);
    const holds = await world.holds();
    expect(holds.map(({ status, reason }) => `${status} ${reason}`)).toEqual(
      bodies.map(() => "PRESUMED usage_missing"),
    );
    expect((await world.budget()).presumed).toBe(
      holds.reduce((sum, { bound, max }) => sum + bound * 1_000 + max * 2_000, 0),
    );
  });

  test("keeps odd names from a provider out of the database's way", async () => {
    const world = await scene((response) =>
      json(response, { ...completion("words"), id: `a\u0000b${"x".repeat(500)}`, model: 7, choices: "none" }),
    );
    await send(world);
    const [usage] = await sql("select * from app.llm_usage where tenant_id = $1", [world.tenantId]);
    expect(usage).toMatchObject({ response_model: null, finish_reason: null });
    expect(usage.provider_request_id).toMatch(/^abx{198}$/);
  });
});

describe("budgetedFetch, when the provider refuses or fails", () => {
  test.each([400, 401, 403, 404, 413, 422, 429])("releases the hold after a %i", async (status) => {
    const world = await scene((response) => json(response, { error: { message: "no" } }, status));
    expect((await send(world)).status).toBe(status);
    expect(await world.holds()).toMatchObject([{ status: "RELEASED", reason: `http_${status}` }]);
    expect(await world.budget()).toEqual({ spent: 0, reserved: 0, presumed: 0 });
  });

  test.each([301, 304, 307])("does not follow a %i, and releases the hold", async (status) => {
    const world = await scene((response) =>
      response.writeHead(status, { location: "/v1/elsewhere" }).end(status === 304 ? undefined : "{}"),
    );
    expect((await send(world)).status).toBe(status);
    expect(await world.holds()).toMatchObject([{ status: "RELEASED", reason: "redirect" }]);
    expect(world.observed).toMatchObject([{ status: "redirect" }]);
    expect(world.provider.hits).toHaveLength(1);
  });

  test.each([402, 408, 409, 500, 502, 503, 529])("presumes the hold after a %i", async (status) => {
    const world = await scene((response) => json(response, {}, status));
    expect((await send(world)).status).toBe(status);
    expect(await world.holds()).toMatchObject([{ status: "PRESUMED", reason: `http_${status}` }]);
    expect(world.provider.hits).toHaveLength(1);
  });

  test("releases the hold when nothing was sent: refused, no such host, no TLS, a blocked port", async () => {
    const world = await scene(ok);
    const closed = await startProvider(ok);
    await closed.close();
    const fetch = budgetedFetch(world.llm, world.tenantId, world.attempt);
    const addresses = [
      closed.baseUrl,
      `http://${"x".repeat(64)}.invalid/v1`,
      world.provider.baseUrl.replace("http", "https"),
      "http://127.0.0.1:6667/v1",
    ];
    for (const baseUrl of addresses) {
      const error = await post(fetch, { baseUrl }, bodyOf()).catch((error: unknown) => error);
      expect(error).toMatchObject({ name: "ModelCallError", reason: "llm_unavailable", unsent: true });
    }
    expect(await world.holds()).toMatchObject(
      addresses.map(() => ({ status: "RELEASED", reason: "unreachable" })),
    );
    const causes = world.lines.filter((line) => line.msg === "llm_released").map((line) => line["err"]);
    expect(causes.map((err) => (err as { message: string }).message)).toEqual([
      expect.stringMatching(/^fetch failed: .*ECONNREFUSED/),
      expect.stringMatching(/^fetch failed: .*ENOTFOUND/),
      expect.stringMatching(/^fetch failed: .*/),
      "fetch failed: bad port",
    ]);
  });

  test.each<[string, Answer, string, string]>([
    ["says nothing", () => {}, "timeout", "llm_timeout"],
    [
      "stalls in the middle",
      (response) => response.writeHead(200).write('{"choices":'),
      "timeout",
      "llm_timeout",
    ],
    ["hangs up before it answers", (response) => response.destroy(), "cut", "llm_unavailable"],
    [
      "hangs up in the middle",
      (response) => {
        response.writeHead(200, { "content-length": 9_999 }).write('{"choices":');
        setTimeout(() => response.destroy(), 20);
      },
      "cut",
      "llm_unavailable",
    ],
    [
      "never stops",
      (response) => {
        const more = () => {
          if (!response.destroyed && response.write("x".repeat(65_536))) setImmediate(more);
          else response.once("drain", more);
        };
        more();
      },
      "answer_too_large",
      "llm_unavailable",
    ],
  ])("presumes the hold, and does not hang, when it %s", async (_, answer, status, reason) => {
    const world = await scene(answer, { llm: { deadlineMs: 400 } });
    const started = performance.now();
    const error = await sendWithRetries(world).catch((error: unknown) => error);
    expect(error).toBeInstanceOf(ModelCallError);
    expect(error).toMatchObject({ reason, unsent: false });
    expect(performance.now() - started).toBeLessThan(3_000);
    expect(await world.holds()).toMatchObject([{ status: "PRESUMED", reason: status }]);
    expect(world.observed).toMatchObject([{ status, usage: undefined }]);
    const presumed = world.lines.find((line) => line.msg === "llm_presumed");
    expect(presumed).toMatchObject({ level: 40, reason: status });
    // What ended the call is said, where something but its length did.
    expect(presumed?.["err"] !== undefined).toBe(status !== "answer_too_large");
    expect(world.provider.hits).toHaveLength(1);
  });

  test("a provider that accepts and never reads is given up at the deadline", async () => {
    const sockets: Socket[] = [];
    const server = createServer((socket) => sockets.push(socket.pause()));
    await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
    const world = await scene(ok, { llm: { deadlineMs: 200 } });
    const baseUrl = `http://127.0.0.1:${(server.address() as { port: number }).port}/v1`;
    await expect(
      post(budgetedFetch(world.llm, world.tenantId, world.attempt), { baseUrl }, bodyOf()),
    ).rejects.toMatchObject({ reason: "llm_timeout" });
    expect(await world.holds()).toMatchObject([{ status: "PRESUMED", reason: "timeout" }]);
    for (const socket of sockets) socket.destroy();
    server.close();
  });
});

describe("budgetedFetch, when it does not send", () => {
  test.each<[string, number | null, string]>([
    ["a budget of $0", 0, "zero"],
    ["no budget at all", null, "no_budget"],
    ["a budget below the bound", 1_000, "too_large"],
  ])("%s refuses the call before it is made", async (_, limit, reason) => {
    const world = await scene(ok, { limit });
    await expect(send(world)).rejects.toMatchObject({ code: "budget_exceeded", detail: { reason } });
    expect(world.provider.hits).toEqual([]);
    expect(await world.holds()).toEqual([]);
    expect(world.checks).toHaveLength(1);
  });

  test("a model without a price is refused", async () => {
    const world = await scene(ok, { price: { input: 1 } });
    await expect(send(world)).rejects.toMatchObject({ code: "no_price" });
    expect(world.provider.hits).toEqual([]);
  });

  test("twenty at once get no more calls than the budget holds", async () => {
    const fits = 7;
    const bound = inputTokensBound(bodyOf(), 1) * 1_000 + 50 * 2_000;
    const world = await scene(
      async (response) => {
        await sleep(300);
        json(response, completion("words"));
      },
      { limit: bound * fits + bound - 1 },
    );
    const fetch = budgetedFetch(world.llm, world.tenantId, world.attempt);
    const outcomes = await Promise.allSettled(
      Array.from({ length: 20 }, () => post(fetch, world.provider, bodyOf())),
    );
    const refusals = outcomes
      .filter((outcome) => outcome.status === "rejected")
      .map((outcome) => outcome.reason.code);
    expect(world.provider.hits).toHaveLength(fits);
    expect(refusals).toEqual(Array.from({ length: 20 - fits }, () => "budget_exceeded"));
  });

  test.each<[string, object]>([
    ["no limit of the answer", { max_tokens: undefined }],
    ["a limit of nothing", { max_tokens: 0 }],
    ["several answers", { n: 2 }],
    ["a stream", { stream: true }],
    ["tools", { tools: [{ type: "web_search" }] }],
    ["a picture by its address", { messages: [{ role: "user", content: [{ type: "image_url" }] }] }],
    ["no message", { messages: [] }],
  ])("a body with %s has no bound, and is refused", async (_, extra) => {
    const world = await scene(ok);
    await expect(send(world, bodyOf(extra))).rejects.toMatchObject({ code: "invalid_request" });
    expect(world.provider.hits).toEqual([]);
    expect(await world.holds()).toEqual([]);
  });

  test("what is sent is what was priced, also where a key comes twice", async () => {
    const world = await scene(ok);
    await send(world, bodyOf().replace("{", '{"max_tokens":9000,'));
    expect(world.provider.hits[0]?.body.match(/max_tokens/g)).toHaveLength(1);
    expect(JSON.parse(world.provider.hits[0]?.body ?? "")).toMatchObject({ max_tokens: 50 });
    expect(await world.holds()).toMatchObject([{ max: 50 }]);
  });

  test("a key is good for one call, during it and after it", async () => {
    const world = await scene(async (response) => {
      await expect(send(world)).rejects.toMatchObject({ code: "idempotency_conflict" });
      json(response, completion("words"));
    });
    expect((await send(world)).status).toBe(200);
    await expect(send(world)).rejects.toMatchObject({ code: "idempotency_conflict" });
    expect(world.provider.hits).toHaveLength(1);
  });

  test("without time left, or after its signal, nothing is held", async () => {
    const late = await scene(ok, { attempt: { deadlineAt: Date.now() - 1 } });
    await expect(send(late)).rejects.toMatchObject({ reason: "llm_timeout" });
    const gone = await scene(ok, { attempt: { signal: AbortSignal.abort(new Error("shutdown")) } });
    await expect(send(gone)).rejects.toThrow("shutdown");
    for (const world of [late, gone]) {
      expect(world.provider.hits).toEqual([]);
      expect(await world.holds()).toEqual([]);
    }
  });
});

describe("budgetedFetch, when its own side fails", () => {
  test("a caller that leaves does not cut the call: its usage is settled", async () => {
    const stop = new AbortController();
    const world = await scene(
      async (response) => {
        stop.abort(new Error("shutdown"));
        await sleep(100);
        json(response, completion("words"));
      },
      { attempt: { signal: stop.signal } },
    );
    await expect(send(world)).rejects.toThrow("shutdown");
    expect(world.observed).toEqual([]);
    await expect.poll(() => world.observed).toMatchObject([{ status: "ok" }]);
    expect(await world.holds()).toMatchObject([{ status: "APPLIED" }]);
  });

  test("the end of the calls is the end of their holds: one that is out is settled", async () => {
    const stop = new AbortController();
    const world = await scene(
      async (response) => {
        stop.abort(new Error("shutdown"));
        await sleep(300);
        json(response, completion("words"));
      },
      { attempt: { signal: stop.signal } },
    );
    await expect(send(world)).rejects.toThrow("shutdown");
    expect(await world.holds()).toMatchObject([{ status: "RESERVED" }]);
    await endOfCalls(anotherDb(), 5_000); // not of this database
    expect(await world.holds()).toMatchObject([{ status: "RESERVED" }]);
    await endOfCalls(world.llm.db, 5_000);
    expect(await world.holds()).toMatchObject([{ status: "APPLIED" }]);
  });

  test("a call that is out for longer than is waited for is cut, and its hold presumed", async () => {
    const stop = new AbortController();
    const world = await scene(() => stop.abort(new Error("shutdown")), { attempt: { signal: stop.signal } });
    await expect(send(world)).rejects.toThrow("shutdown");
    const started = performance.now();
    await endOfCalls(world.llm.db, 100);
    expect(performance.now() - started).toBeLessThan(2_000);
    expect(await world.holds()).toMatchObject([{ status: "PRESUMED", reason: "cut" }]);
    expect(world.lines.at(-1)).toMatchObject({ msg: "llm_presumed", reason: "cut", err: {} });
    expect(world.lines.map((line) => line.msg)).not.toContain("llm_close_failed");
  });

  test("a caller that leaves while the money is held gets it back", async () => {
    const stop = new AbortController();
    const world = await scene(ok, { attempt: { signal: stop.signal } });
    const left = expect(send(world)).rejects.toThrow("shutdown");
    stop.abort(new Error("shutdown"));
    await left;
    await expect.poll(() => world.observed).toMatchObject([{ status: "not_sent" }]);
    expect(await world.holds()).toMatchObject([{ status: "RELEASED", reason: "not_sent" }]);
    expect(world.provider.hits).toEqual([]);
  });

  test("an end that cannot be written leaves the hold, says so, and does not lose the answer", async () => {
    const lost = anotherDb();
    const world = await scene(
      async (response) => {
        await lost.pool.end();
        json(response, completion("words"));
      },
      { llm: { db: lost } },
    );
    expect((await send(world)).status).toBe(200);
    expect(await world.holds()).toMatchObject([{ status: "RESERVED" }]);
    expect(world.lines.at(-1)).toMatchObject({
      msg: "llm_close_failed",
      input_tokens: 100,
      output_tokens: 20,
    });
  });

  test("without a database nothing is sent", async () => {
    const lost = anotherDb();
    await lost.pool.end();
    const world = await scene(ok, { llm: { db: lost } });
    await expect(send(world)).rejects.toThrow(/pool/);
    expect(world.provider.hits).toEqual([]);
  });
});

describe("retryingFetch", () => {
  test("connects again after a refused connection, with another hold", async () => {
    const world = await scene(ok);
    const { host } = world.provider;
    await world.provider.close();
    const revive = async () => {
      providers.push(await startProvider(ok, Number(host.split(":")[1])));
    };
    const observe = {
      budgetCheckSeconds: () => {},
      call: () => void (providers.length === 1 && revive()),
      overHold: () => {},
    };
    const response = await sendWithRetries({
      ...world,
      llm: { ...world.llm, retryDelaysMs: [200, 200], observe },
    });
    expect(response.status).toBe(200);
    expect(await world.holds()).toMatchObject([
      { status: "RELEASED", reason: "unreachable" },
      { status: "APPLIED" },
    ]);
    const keys = await sql(
      "select idempotency_key from app.llm_reservation_keys where tenant_id = $1 order by 1",
      [world.tenantId],
    );
    const { runId } = world.attempt;
    expect(keys.map((row) => row["idempotency_key"])).toEqual([`run:${runId}:1:1`, `run:${runId}:1:2`]);
  });

  test("gives up after the last pause, with the last error", async () => {
    const world = await scene(ok);
    await world.provider.close();
    await expect(sendWithRetries(world)).rejects.toMatchObject({ reason: "llm_unavailable", unsent: true });
    expect((await world.holds()).map((hold) => hold.status)).toEqual(["RELEASED", "RELEASED", "RELEASED"]);
    expect(world.lines.filter((line) => line.msg === "llm_retry")).toHaveLength(2);
  });

  test("waits as long as Retry-After says", async () => {
    const times: number[] = [];
    const world = await scene((response, _hit, nth) => {
      times.push(performance.now());
      return nth === 1
        ? json(response, {}, 429, { "retry-after": "1" })
        : json(response, completion("words"));
    });
    expect((await sendWithRetries(world)).status).toBe(200);
    expect((times[1] ?? 0) - (times[0] ?? 0)).toBeGreaterThanOrEqual(990);
    expect((await world.holds()).map((hold) => hold.status)).toEqual(["RELEASED", "APPLIED"]);
  });

  test("does not wait past the end of the attempt", async () => {
    const world = await scene((response) => json(response, {}, 429, { "retry-after": "3600" }));
    const started = performance.now();
    expect((await sendWithRetries(world)).status).toBe(429);
    expect(performance.now() - started).toBeLessThan(2_000);
    expect(world.provider.hits).toHaveLength(1);
  });

  test("sends again after a 5xx, whose hold stays presumed", async () => {
    const world = await scene((response, _hit, nth) =>
      nth < 3 ? json(response, {}, 502 + nth) : json(response, completion("words")),
    );
    expect((await sendWithRetries(world)).status).toBe(200);
    expect(await world.holds()).toMatchObject([
      { status: "PRESUMED", reason: "http_503" },
      { status: "PRESUMED", reason: "http_504" },
      { status: "APPLIED" },
    ]);
    const budget = await world.budget();
    expect(budget.spent).toBe(140_000);
    expect(budget.presumed).toBeGreaterThan(0);
  });

  test("makes three calls at most", async () => {
    const world = await scene((response) => json(response, {}, 500));
    expect((await sendWithRetries(world)).status).toBe(500);
    expect(world.provider.hits).toHaveLength(3);
  });

  test("does not send again what was refused for good", async () => {
    const world = await scene((response) => json(response, {}, 401));
    expect((await sendWithRetries(world)).status).toBe(401);
    expect(world.provider.hits).toHaveLength(1);
  });

  test("ends with budget_exceeded when a second hold does not fit beside the first", async () => {
    const bound = inputTokensBound(bodyOf(), 1) * 1_000 + 50 * 2_000;
    const world = await scene((response) => json(response, {}, 500), { limit: bound * 2 - 1 });
    await expect(sendWithRetries(world)).rejects.toMatchObject({ code: "budget_exceeded" });
    expect(world.provider.hits).toHaveLength(1);
    expect(await world.holds()).toMatchObject([{ status: "PRESUMED" }]);
  });

  test("leaves its pause at once when its signal says so", async () => {
    const stop = new AbortController();
    const world = await scene((response) => json(response, {}, 500), {
      attempt: { signal: stop.signal },
      llm: { retryDelaysMs: [30_000] },
    });
    const started = performance.now();
    const sent = sendWithRetries(world);
    await expect.poll(() => world.lines.at(-1)?.msg).toBe("llm_retry");
    stop.abort(new Error("shutdown"));
    await expect(sent).rejects.toThrow("shutdown");
    expect(performance.now() - started).toBeLessThan(5_000);
  });
});

describe("the bound", () => {
  test("counts the bytes of the body, or of its NFKC form where that is longer", () => {
    const overhead = REQUEST_TOKENS + 2 * MESSAGE_TOKENS;
    expect(inputTokensBound("abc", 2)).toBe(3 + overhead);
    expect(inputTokensBound("é", 2)).toBe(2 + overhead);
    expect(inputTokensBound("\ufdfa", 2)).toBe(33 + overhead);
    expect(inputTokensBound("ﬁ①", 2)).toBe(6 + overhead);
  });

  test("sees through the escapes of JSON", async () => {
    const world = await scene(ok);
    const escaped = bodyOf({ messages: [{ role: "user", content: "@".repeat(100) }] }).replaceAll(
      "@",
      "\\ufdfa",
    );
    await send(world, escaped);
    expect((await world.holds())[0]?.bound).toBeGreaterThan(100 * 33);
  });
});

test("Retry-After is seconds or a date", () => {
  const now = Date.parse("2026-01-01T00:00:00Z");
  expect(retryAfterMs("7", now)).toBe(7_000);
  expect(retryAfterMs("Thu, 01 Jan 2026 00:00:09 GMT", now)).toBe(9_000);
  for (const value of [null, "", "soon", "-3", "Wed, 31 Dec 2025 00:00:00 GMT"])
    expect(retryAfterMs(value, now)).toBe(0);
});

test("a provider is named after its host; without an address it is the offline analyst", () => {
  const settings = { baseUrl: "https://api.openai.com/v1", apiKey: "k", model: "m" };
  expect(providerOf(settings)).toMatchObject({ name: "api.openai.com", model: "m", simulated: false });
  expect(providerOf({ ...settings, baseUrl: "http://127.0.0.1:11434/v1" }).name).toBe("127.0.0.1:11434");
  const bedrock = { ...settings, baseUrl: "https://bedrock-runtime.eu-west-1.amazonaws.com/openai/v1" };
  expect(providerOf(bedrock)).toMatchObject({ ...bedrock, name: "bedrock-runtime.amazonaws.com" });
  expect(providerOf({ baseUrl: undefined, apiKey: "k", model: "m" })).toBe(OFFLINE);
});
