import { randomBytes, randomUUID } from "node:crypto";
import { once } from "node:events";
import { connect } from "node:net";
import { Writable } from "node:stream";
import { text } from "node:stream/consumers";
import { setTimeout as sleep } from "node:timers/promises";
import pg from "pg";
import { afterEach, expect, test } from "vitest";
import { mintToken } from "../src/auth.ts";
import { createPool } from "../src/db.ts";
import { AppError } from "../src/errors.ts";
import { createApp, type HttpApp, type HttpDeps } from "../src/http.ts";
import { createLog } from "../src/log.ts";
import { createMetrics } from "../src/metrics.ts";
import { problemOf } from "../src/problem.ts";
import { databaseReadiness, type Readiness } from "../src/routes/probes.ts";

const READY: Readiness = { ready: true, checks: { database: true, migrations: true } };
const PROBLEM = /^application\/problem\+json/;
const config = { jwtSecretKey: randomBytes(32) };
const tenantId = randomUUID();
const open: (() => Promise<unknown>)[] = [];
afterEach(async () => {
  for (const close of open.splice(0)) await close();
});

/** The endpoint before a database that nobody runs: port 1 refuses every connection. */
function endpoint(over: Partial<HttpDeps> = {}) {
  const lines: string[] = [];
  const destination = new Writable({
    write(chunk, _encoding, done) {
      lines.push(String(chunk));
      done();
    },
  });
  const pool = createPool({ host: "127.0.0.1", port: 1, user: "x", database: "x", application_name: "test" });
  const metrics = createMetrics({ version: "1" });
  const made = createApp({
    db: { pool, ticketKey: { kid: 1, secret: randomBytes(32) } },
    config,
    log: createLog({ level: "debug", readable: false, destination }),
    metrics,
    llm: { provider: "offline", model: "offline-analyst" },
    ready: async () => READY,
    ...over,
  });
  open.push(
    () => made.app.close(),
    () => pool.end(),
  );
  const logged = () => lines.map((line) => JSON.parse(line) as Record<string, unknown>);
  return { ...made, pool, metrics, logged, scrape: () => metrics.registry.metrics() };
}

const token = (tenant = tenantId) => mintToken(config, { tenantId: tenant, subject: "joe", expiresIn: "5m" });
const authorized = async () => ({ authorization: `Bearer ${await token()}` });

async function listen({ app }: HttpApp): Promise<{ url: string; port: number }> {
  const url = await app.listen({ host: "127.0.0.1", port: 0 });
  return { url, port: Number(new URL(url).port) };
}

/** What comes back on a plain connection. */
async function raw(port: number, sent: string): Promise<string> {
  const socket = connect(port, "127.0.0.1");
  socket.end(sent);
  return text(socket);
}

test("alive without a database, and ready only with one", async () => {
  const { app, pool } = endpoint();
  const alive = await app.inject("/livez");
  expect([alive.statusCode, alive.json()]).toEqual([200, { status: "alive" }]);
  const db = { pool, ticketKey: { kid: 1, secret: randomBytes(32) } };
  expect(await databaseReadiness(db, "000001.sql")).toEqual({
    ready: false,
    checks: { database: false, migrations: false, ticket_key: false },
    cause: expect.objectContaining({ code: "ECONNREFUSED" }),
  });
});

test.each(["/readyz", "/health"])(
  "%s shows its checks, and answers 503 as a problem while one fails",
  async (url) => {
    const ready = await endpoint().app.inject(url);
    expect([ready.statusCode, ready.json()]).toEqual([
      200,
      { status: "ready", checks: { database: true, migrations: true, not_draining: true } },
    ]);
    const behind = async () => ({ ready: false, checks: { database: true, migrations: false } });
    const answer = await endpoint({ ready: behind }).app.inject(url);
    expect(answer.statusCode).toBe(503);
    expect(answer.headers).toMatchObject({
      "content-type": expect.stringMatching(PROBLEM),
      "retry-after": "2",
    });
    expect(answer.json()).toMatchObject({
      code: "service_unavailable",
      checks: { database: true, migrations: false, not_draining: true },
    });
  },
);

test("/health takes a POST with any body, or none", async () => {
  const { app } = endpoint();
  for (const headers of [{}, { "content-type": "text/plain" }, { "content-type": "application/json" }]) {
    const answer = await app.inject({ method: "POST", url: "/health", headers, payload: "not json" });
    expect(answer.statusCode).toBe(200);
  }
  expect((await app.inject({ method: "POST", url: "/health" })).statusCode).toBe(200);
});

test("a readiness that fails or never comes is a 503 in time, not a hang", async () => {
  const failing = await endpoint({ ready: () => Promise.reject(new Error("secret host name")) }).app.inject(
    "/readyz",
  );
  expect([failing.statusCode, failing.json().checks]).toEqual([503, { answered: false, not_draining: true }]);
  const started = performance.now();
  const hanging = await endpoint({ ready: () => new Promise(() => {}) }).app.inject("/readyz");
  expect([hanging.statusCode, hanging.json().checks]).toEqual([503, { in_time: false, not_draining: true }]);
  expect(performance.now() - started).toBeLessThan(4_000);
});

test("a change of readiness is logged once, with its cause, and shown to no prober", async () => {
  const away: Readiness = { ready: false, checks: { database: false }, cause: new Error("secret host name") };
  const states = [READY, away, away, READY, READY, away];
  const { app, logged } = endpoint({ ready: async () => states.shift()! });
  const bodies: string[] = [];
  for (const _ of [...states]) bodies.push((await app.inject("/readyz")).body);
  expect(bodies.join("")).not.toContain("secret host name");
  const lost = { level: "error", msg: "readiness_lost", checks: { database: false } };
  expect(logged().filter((line) => String(line["msg"]).startsWith("readiness_"))).toMatchObject([
    { ...lost, err: { message: "secret host name" } },
    { level: "info", msg: "readiness_regained", checks: READY.checks },
    { ...lost, err: { message: "secret host name" } },
  ]);
});

test("a drain is no loss of readiness, and a readiness that throws is", async () => {
  const drained = endpoint();
  drained.drain();
  await drained.app.inject("/readyz");
  const failing = endpoint({ ready: () => Promise.reject(new Error("a bug")) });
  await failing.app.inject("/readyz");
  const changes = (lines: Record<string, unknown>[]) =>
    lines.filter((line) => String(line["msg"]).startsWith("readiness_"));
  expect(changes(drained.logged())).toEqual([]);
  expect(changes(failing.logged())).toMatchObject([{ msg: "readiness_lost", err: { message: "a bug" } }]);
});

test("every line of a request says whose it is once that is known, and not before", async () => {
  const { app, logged } = endpoint();
  await app.inject({ url: "/v1/findings?limit=0", headers: await authorized() });
  await app.inject({ url: "/v1/findings?limit=0" });
  const lines = logged().map(({ msg, tenant_id, subject }) => ({ msg, tenant_id, subject }));
  expect(lines).toEqual([
    { msg: "request_refused", tenant_id: tenantId, subject: "joe" },
    { msg: "request", tenant_id: tenantId, subject: "joe" },
    { msg: "request_refused", tenant_id: undefined, subject: undefined },
    { msg: "request", tenant_id: undefined, subject: undefined },
  ]);
});

test("that it listens is said by whoever starts it, not by the framework", async () => {
  const made = endpoint();
  const { url } = await listen(made);
  await fetch(`${url}/livez`);
  expect(made.logged().map((line) => line["msg"])).toEqual(["request"]);
});

test("/metrics and /health/metrics answer in Prometheus' text", async () => {
  const { app } = endpoint();
  for (const url of ["/metrics", "/health/metrics"]) {
    const answer = await app.inject(url);
    expect(answer.statusCode).toBe(200);
    expect(answer.headers["content-type"]).toMatch(/^text\/plain; version=0\.0\.4/);
    expect(answer.body).toContain("# TYPE api_request_duration_seconds histogram");
  }
});

test("every request is measured under its route's pattern, unknown paths under one name", async () => {
  const { app, scrape } = endpoint();
  const headers = await authorized();
  await app.inject("/livez");
  await app.inject({ url: `/v1/analyses/${randomUUID()}`, headers });
  await app.inject("/v1/findings");
  await app.inject("/wp-login.php");
  await app.inject("/wp-admin.php");
  await app.inject({ method: "DELETE", url: "/v1/findings" });
  const counts = [...(await scrape()).matchAll(/^api_request_duration_seconds_count\{(.*)\} (\d+)$/gm)];
  expect(counts.map((match) => `${match[1]} ${match[2]}`).toSorted()).toEqual([
    'route="/livez",method="GET",status="200" 1',
    'route="/v1/analyses/:id",method="GET",status="503" 1',
    'route="/v1/findings",method="DELETE",status="405" 1',
    'route="/v1/findings",method="GET",status="401" 1',
    'route="unmatched",method="GET",status="404" 2',
  ]);
});

test("a caller without a token, or with a bad one, learns that and no more", async () => {
  const { app, logged } = endpoint();
  const request = { method: "POST", url: "/v1/analyses", payload: "not json" } as const;
  for (const headers of [{}, { authorization: `Bearer ${(await token()).slice(0, -3)}` }]) {
    const answer = await app.inject({
      ...request,
      headers: { ...headers, "content-type": "application/json" },
    });
    expect(answer.statusCode).toBe(401);
    expect(answer.headers["www-authenticate"]).toBe('Bearer realm="holdfast", error="invalid_token"');
    expect(answer.json()).toEqual({
      type: "urn:holdfast:problem:unauthorized",
      title: "Unauthorized",
      status: 401,
      code: "unauthorized",
      instance: answer.headers["x-request-id"],
    });
  }
  const refusals = logged().filter((line) => line["msg"] === "request_refused");
  expect(refusals.map((line) => line["reason"])).toEqual([undefined, "signature verification failed"]);
});

test("unknown paths and methods are problems too", async () => {
  const { app, scrape } = endpoint();
  const unknown = await app.inject("/v1/nothing");
  expect([unknown.statusCode, unknown.json().code]).toEqual([404, "not_found"]);
  expect(unknown.headers["content-type"]).toMatch(PROBLEM);
  const allowed = async (url: string, method: "PUT" | "GET" | "OPTIONS" | "POST") => {
    const answer = await app.inject({ url, method, payload: "x" });
    expect([answer.statusCode, answer.json().code]).toEqual([405, "method_not_allowed"]);
    return answer.headers["allow"];
  };
  expect(await allowed("/v1/analyses", "GET")).toBe("POST");
  expect(await allowed(`/v1/analyses/${randomUUID()}`, "PUT")).toBe("GET, HEAD");
  expect(await allowed("/livez", "POST")).toBe("GET, HEAD");
  expect(await allowed("/health", "OPTIONS")).toBe("GET, POST, HEAD");
  for (const url of ["/v1/analyses/%zz", `/v1/analyses/${"x".repeat(500)}`]) {
    const malformed = await app.inject(url);
    expect([malformed.statusCode, malformed.json().code]).toEqual([400, "invalid_request"]);
    expect(malformed.headers).toMatchObject({ "x-content-type-options": "nosniff" });
  }
  expect(await scrape()).toMatch(/_count\{route="unmatched",method="GET",status="400"\} 2/);
});

test.each([
  ["malformed JSON", 400, { "content-type": "application/json" }, "{"],
  ["no JSON", 400, { "content-type": "application/json" }, ""],
  ["an unknown field", 400, { "content-type": "application/json" }, '{"model":"x"}'],
  ["a list", 400, { "content-type": "application/json" }, "[]"],
  ["a prototype", 400, { "content-type": "application/json" }, '{"__proto__":{"a":1}}'],
  ["another type", 415, { "content-type": "text/csv" }, "a,b"],
  ["a form", 415, { "content-type": "application/x-www-form-urlencoded" }, "a=b"],
  [
    "more than 64 KiB",
    413,
    { "content-type": "application/json" },
    JSON.stringify({ a: "x".repeat(70_000) }),
  ],
  ["an unreadable idempotency key", 400, { "idempotency-key": "a b" }, undefined],
  ["a long idempotency key", 400, { "idempotency-key": "x".repeat(256) }, undefined],
])("POST /v1/analyses with %s is refused with %i", async (_what, status, headers, payload) => {
  const { app } = endpoint();
  const all = { ...(await authorized()), ...headers };
  const answer = await app.inject({
    method: "POST",
    url: "/v1/analyses",
    headers: all,
    ...(payload === undefined ? {} : { payload }),
  });
  expect(answer.statusCode).toBe(status);
  expect(answer.headers["content-type"]).toMatch(PROBLEM);
  expect(answer.json()).toMatchObject({ status, instance: answer.headers["x-request-id"] });
});

test.each(["limit=0", "limit=201", "limit=ten", "after=-1", "state=lost", "tenant_id=1", "limit=1&limit=2"])(
  "GET /v1/findings?%s is refused, naming the field",
  async (query) => {
    const answer = await endpoint().app.inject({ url: `/v1/findings?${query}`, headers: await authorized() });
    expect([answer.statusCode, answer.json().code]).toEqual([400, "invalid_request"]);
    expect(answer.json().faults).toHaveLength(1);
  },
);

test("an analysis id that is no uuid never reaches the database", async () => {
  const answer = await endpoint().app.inject({ url: "/v1/analyses/1", headers: await authorized() });
  expect([answer.statusCode, answer.json().faults]).toEqual([400, ["path.id: Invalid UUID"]]);
});

test("a database that is away is 503 with Retry-After, on every route of a tenant", async () => {
  const { app, logged } = endpoint();
  const headers = await authorized();
  for (const url of ["/v1/findings", "/v1/budget", `/v1/analyses/${randomUUID()}`]) {
    const answer = await app.inject({ url, headers });
    expect([answer.statusCode, answer.headers["retry-after"]]).toEqual([503, "2"]);
    expect(answer.json()).toMatchObject({ code: "service_unavailable" });
    expect(answer.body).not.toMatch(/127\.0\.0\.1|ECONNREFUSED/);
  }
  const failures = logged().filter((line) => line["msg"] === "request_failed");
  expect(failures).toHaveLength(3);
  expect(failures[0]).toMatchObject({ level: "warn", err: { code: "ECONNREFUSED" } });
});

test("answers are not kept and not guessed at; each has the id under which it is logged", async () => {
  const { app, logged } = endpoint();
  const answer = await app.inject({ url: "/v1/budget", headers: { "x-request-id": "chosen by the caller" } });
  expect(answer.headers).toMatchObject({ "cache-control": "no-store", "x-content-type-options": "nosniff" });
  const id = answer.headers["x-request-id"];
  expect(id).toMatch(/^[0-9a-f-]{36}$/);
  expect(logged().find((line) => line["msg"] === "request")).toMatchObject({
    request_id: id,
    method: "GET",
    route: "/v1/budget",
    status: 401,
  });
});

test("what is not HTTP is answered as a problem and closed", async () => {
  const { port } = await listen(endpoint());
  const nonsense = await raw(port, "EHLO holdfast\r\n\r\n");
  expect(nonsense).toMatch(/^HTTP\/1\.1 400 Bad Request\r\n/);
  expect(JSON.parse(nonsense.split("\r\n\r\n")[1]!)).toMatchObject({ code: "invalid_request", status: 400 });
  const large = await raw(port, `GET /livez HTTP/1.1\r\nhost: x\r\nx-pad: ${"x".repeat(20_000)}\r\n\r\n`);
  expect(large).toMatch(/^HTTP\/1\.1 431 /);
});

test("while draining it is not ready, ends its connections, and finishes what it has begun", async () => {
  const begun = Promise.withResolvers<void>();
  const slow = Promise.withResolvers<Readiness>();
  let calls = 0;
  const made = endpoint({
    ready: () => {
      calls += 1;
      if (calls > 1) return Promise.resolve(READY);
      begun.resolve();
      return slow.promise;
    },
  });
  const { url } = await listen(made);
  const first = fetch(`${url}/readyz`);
  await begun.promise;

  made.drain();
  const second = await fetch(`${url}/readyz`);
  expect(second.status).toBe(503);
  expect(second.headers.get("connection")).toBe("close");
  expect(await second.json()).toMatchObject({ checks: { database: true, not_draining: false } });
  expect((await fetch(`${url}/livez`)).status).toBe(200);

  const closed = made.app.close();
  expect(await Promise.race([closed.then(() => "closed"), sleep(200, "waits")])).toBe("waits");
  slow.resolve(READY);
  expect((await first).status).toBe(503);
  await closed;
  await expect(fetch(`${url}/livez`)).rejects.toThrow();
});

test("a caller who never finishes the headers is let go", async () => {
  const made = endpoint();
  const { port } = await listen(made);
  expect(made.app.server).toMatchObject({ headersTimeout: 10_000, requestTimeout: 15_000 });
  // The same clock with a shorter limit: what is tested is that it is wired, not that ten seconds are ten.
  made.app.server.headersTimeout = 300;
  const socket = connect(port, "127.0.0.1");
  socket.write("GET /livez HTTP/1.1\r\n");
  const answer = text(socket);
  await once(socket, "close");
  expect(await answer).toMatch(/^HTTP\/1\.1 408 /);
}, 40_000);

const databaseError = (code: string, message = "from the server") =>
  Object.assign(new pg.DatabaseError(message, 0, "error"), { code, detail: "Key (name)=(a customer)" });

test.each<readonly [string, Error]>([
  ["no free connection in time", new Error("timeout exceeded when trying to connect")],
  ["a connection that broke", new Error("Connection terminated unexpectedly")],
  ["a deadline of ours", new DOMException("too late", "TimeoutError")],
  ["a refused connection", Object.assign(new Error("connect"), { code: "ECONNREFUSED" })],
  ...["08006", "53300", "57P01", "57P03", "57014", "40001", "40P01", "55P03", "25006"].map(
    (code) => [`SQLSTATE ${code}`, databaseError(code)] as const,
  ),
])("%s is 503 with Retry-After", (_what, error) => {
  const problem = problemOf(error, "id-1");
  expect(problem).toMatchObject({
    status: 503,
    code: "service_unavailable",
    headers: { "retry-after": "2" },
  });
  expect(JSON.stringify(problem)).not.toMatch(/from the server|customer|terminated/);
});

test.each([
  ["a bug", new TypeError("cannot read s3cr3t of undefined")],
  ["a constraint", databaseError("23505", "duplicate key s3cr3t")],
  ["a missing grant", databaseError("42501", "permission denied for s3cr3t")],
  [
    "a setting",
    new AppError("config_invalid", { message: "s3cr3t", detail: { path: "s3cr3t" }, hint: "s3cr3t" }),
  ],
  ["something thrown that is no error", "s3cr3t"],
  ["nothing at all", undefined],
])("%s is 500 and says nothing", (_what, error) => {
  expect(problemOf(error, "id-1").body).toEqual({
    type: "urn:holdfast:problem:internal_error",
    title: "Internal error",
    status: 500,
    code: "internal_error",
    instance: "id-1",
  });
});

test("a refusal of the database is told with its facts, which cannot alter the document", () => {
  const detail = {
    reason: "exhausted",
    needed_nanousd: 12,
    status: "forged",
    type: "forged",
    scope: "tenant",
  };
  const { status, body } = problemOf(
    new AppError("budget_exceeded", { detail, hint: "Raise the limit." }),
    "id-1",
  );
  expect(status).toBe(402);
  expect(body).toEqual({
    type: "urn:holdfast:problem:budget_exceeded",
    title: "Budget exceeded",
    status: 402,
    code: "budget_exceeded",
    instance: "id-1",
    hint: "Raise the limit.",
    reason: "exhausted",
    needed_nanousd: "12",
    scope: "tenant",
    error: {
      type: "insufficient_quota",
      code: "budget_exceeded",
      message: "Budget exceeded. Raise the limit.",
      meta: { reason: "exhausted", needed: "0.000000012", needed_nanousd: "12", scope: "tenant" },
    },
  });
});
