// The parts as they run in production: a migration, an endpoint and a worker, each a process with a login of its own,
// on a database that was empty. Then the ways in which a model lets a run down.
import { randomBytes, randomUUID } from "node:crypto";
import { once } from "node:events";
import * as fs from "node:fs";
import { createServer, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import type pg from "pg";
import { afterAll, afterEach, beforeAll, describe, expect, inject, it } from "vitest";
import { z } from "zod";
import { mintToken } from "../src/auth.ts";
import { readConfig } from "../src/config.ts";
import { call, createPool, type Db } from "../src/db.ts";
import { importFocus } from "../src/imports.ts";
import { bootstrap, withClient } from "../src/migrate.ts";
import { openDb, processMetrics } from "../src/parts.ts";
import { reportJson } from "../src/report.ts";
import { sampleTenants, writeSample } from "../src/sample.ts";
import { tenantAdd } from "../src/tenants.ts";
import { TEST_PASSWORD, TEST_TICKET_KEY } from "./support/constants.ts";
import { type Ended, endProcesses, logLines, type Running, run } from "./support/process.ts";

const server = inject("server");
const name = `holdfast_parts_${randomUUID().slice(0, 8)}`;
const keys = {
  TICKET_KEY: TEST_TICKET_KEY.secret.toString("base64"),
  JWT_SECRET_KEY: randomBytes(32).toString("base64"),
};
const folder = fs.mkdtempSync(join(tmpdir(), "holdfast-parts-"));
const tenants = new Map<string, string>();
let ops: pg.Pool;
let work: Db;

function url(login: string): string {
  return `postgresql://${login}:${TEST_PASSWORD}@${server.host}:${server.port}/${name}`;
}

/** Starts `npm run <part>` with the settings that a deployment gives it. */
function part(script: string, databaseUrl: string, more: Record<string, string> = {}): Running {
  return run("npm", ["run", "--silent", script], {
    ENVIRONMENT: "development",
    DATABASE_URL: databaseUrl,
    TASKS_DATABASE_URL: url("holdfast_service"),
    HTTP_PORT: "0",
    METRICS_PORT: "0",
    ...keys,
    ...more,
  });
}

async function ending(system: Running): Promise<Ended> {
  process.kill(system.pid, "SIGTERM");
  return system.ended;
}

async function serving(api: Running): Promise<string> {
  return (await api.seen(/"url":"(http:[^"]+)"[^\n]*"msg":"api_started"/))[1]!;
}

async function tokenOf(tenant: string): Promise<string> {
  const grant = { tenantId: tenants.get(tenant) ?? "", subject: "test", expiresIn: "5m" };
  return mintToken({ jwtSecretKey: Buffer.from(keys.JWT_SECRET_KEY, "base64") }, grant);
}

/** Asks for an analysis over HTTP, and waits for its end. */
async function analysed(address: string, tenant: string): Promise<Record<string, unknown>> {
  const headers = { authorization: `Bearer ${await tokenOf(tenant)}` };
  const asked = await fetch(`${address}/v1/analyses`, { method: "POST", headers });
  expect(asked.status, await asked.clone().text()).toBe(202);
  const analysis = async () =>
    (await (await fetch(address + asked.headers.get("location"), { headers })).json()) as Record<
      string,
      unknown
    >;
  await expect
    .poll(async () => (await analysis())["status"], { timeout: 25_000, interval: 100 })
    .toMatch(/COMPLETED|FAILED/);
  return analysis();
}

beforeAll(async () => {
  await bootstrap(server.administrator, { database: name, passwords: {} });
  ops = createPool({ connectionString: url("holdfast_ops"), application_name: "test" });
  work = {
    pool: createPool({ connectionString: url("holdfast_worker"), application_name: "test" }),
    ticketKey: TEST_TICKET_KEY,
  };
});

afterEach(endProcesses);
afterAll(async () => {
  await ops.end();
  await work.pool.end();
  await withClient(server.administrator, (client) =>
    client.query(`drop database if exists ${name} with (force)`),
  );
  fs.rmSync(folder, { recursive: true });
});

describe("npm run db:migrate", () => {
  it("is what a worker asks for on a database that has nothing yet, and then it ends", async () => {
    const { code, stdout, stderr, ms } = await part("worker", url("holdfast_worker")).ended;
    expect({ code, stdout }, stderr).toEqual({ code: 1, stdout: "" });
    expect(stderr).toContain("npm run db:migrate");
    expect(ms).toBeLessThan(15_000);
  });

  it("brings an empty database to the newest migration, and does nothing the second time", async () => {
    for (const round of ["first", "second"]) {
      const { code, stdout, stderr } = await part("db:migrate", url("holdfast_admin")).ended;
      expect({ code, stdout }, `${round}: ${stderr}`).toEqual({ code: 0, stdout: "" });
      expect(logLines(stderr).map((line) => line.msg)).toEqual(["migrated"]);
      expect(stderr).not.toContain(TEST_PASSWORD);
    }
    const { rows } = await ops.query("select * from ops.report");
    expect(rows).toEqual([]);
  });

  it("refuses another TICKET_KEY under the same TICKET_KEY_ID", async () => {
    const TICKET_KEY = randomBytes(32).toString("base64");
    const { code, stdout, stderr } = await part("db:migrate", url("holdfast_admin"), { TICKET_KEY }).ended;
    expect({ code, stdout }, stderr).toEqual({ code: 1, stdout: "" });
    expect(stderr).toContain("TICKET_KEY differs from the key that the database knows as number 1");
    expect(stderr).toContain("TICKET_KEY_ID");
  });
});

describe("npm run api and npm run worker", () => {
  beforeAll(async () => {
    const sample = sampleTenants(new Date(new Date().toISOString().slice(0, 10)))[3]!;
    const lines = fs
      .readFileSync((await writeSample(sample, folder)).path, "utf8")
      .trimEnd()
      .split("\n");
    const path = join(folder, "bill.csv");
    // None of it has a cost centre: something to tell of.
    fs.writeFileSync(path, [lines[0], ...lines.slice(-1_500)].join("\n"));
    for (const tenant of ["Wholesale", "Timeout", "Failing", "Refused", "Poor"]) {
      const made = { name: tenant, tier: "ACTIVE", timeZone: "UTC", limitUsd: "1", sample: false };
      const tenantId = await tenantAdd(
        { pool: ops },
        { ...made, limitUsd: tenant === "Poor" ? "0" : "1" },
        "test",
      );
      tenants.set(tenant, tenantId);
      await importFocus(work, tenantId, { path, source: "test" });
    }
    // What is due is asked for by the tests alone.
    await withClient({ ...server.administrator, ...inDatabase() }, (client) =>
      client.query("update app.schedules set next_run_at = now() + interval '1 day'"),
    );
  });

  it("do a whole analysis that was asked for over HTTP, and end with 0 on SIGTERM", async () => {
    const api = part("api", url("holdfast_service"));
    const worker = part("worker", url("holdfast_worker"));
    const address = await serving(api);
    await worker.seen(/worker_started/);

    expect((await fetch(`${address}/readyz`)).status).toBe(200);
    expect(api.stderr()).not.toContain("Server listening");
    expect(await analysed(address, "Wholesale")).toMatchObject({ status: "COMPLETED", narrated_by: "model" });
    const headers = { authorization: `Bearer ${await tokenOf("Wholesale")}` };
    expect(await (await fetch(`${address}/v1/findings`, { headers })).json()).toMatchObject({
      findings: expect.arrayContaining([expect.objectContaining({ headline: expect.any(String) })]),
    });
    const stranger = { authorization: `Bearer ${await tokenOf("Timeout")}` };
    expect(await (await fetch(`${address}/v1/findings`, { headers: stranger })).json()).toMatchObject({
      findings: [],
    });

    const poor = { authorization: `Bearer ${await tokenOf("Poor")}` };
    const refused = await fetch(`${address}/v1/analyses`, { method: "POST", headers: poor });
    expect({ status: refused.status, body: await refused.json() }).toMatchObject({
      status: 402,
      body: { code: "budget_exceeded" },
    });

    for (const each of await Promise.all([ending(api), ending(worker)])) {
      expect(each, each.stderr.slice(-2_000)).toMatchObject({ code: 0, stdout: "" });
      expect(each.ms).toBeLessThan(30_000);
    }
  });

  it.each([
    ["worker", "holdfast_admin"],
    ["api", "superuser"],
  ])("%s is refused as %s, whom row security does not bind", async (script, login) => {
    const { code, stdout, stderr } = await part(script, login === "superuser" ? superuserUrl() : url(login))
      .ended;
    expect({ code, stdout }, stderr).toEqual({ code: 1, stdout: "" });
    expect(stderr).toContain("role_unsafe");
    expect(stderr).toContain("holdfast_service");
    expect(stderr).not.toMatch(/^ +at /m);
  });

  it.each([
    ["api", "holdfast_worker", "holdfast_service"],
    ["worker", "holdfast_service", "holdfast_worker"],
  ])("%s is refused as %s, which is not its login %s", async (script, login, wanted) => {
    const { code, stdout, stderr } = await part(script, url(login)).ended;
    expect({ code, stdout }, stderr).toEqual({ code: 1, stdout: "" });
    expect(stderr).toMatch(new RegExp(`^role_unsafe: .*${wanted}.*${login}`, "m"));
    expect(stderr).not.toMatch(/^ +at /m);
  });

  it("is refused outside development on a server that can show hidden rows, naming the versions", async ({
    skip,
  }) => {
    const { rows } = await ops.query("select current_setting('server_version_num')::int as version");
    const floors = [150_020, 160_016, 170_012, 180_007];
    const floor = floors.find((each) => Math.floor(each / 10_000) === Math.floor(rows[0].version / 10_000));
    skip(floor !== undefined && rows[0].version >= floor, "this server is not older than the floor");
    const { code, stderr } = await part("api", url("holdfast_service"), { ENVIRONMENT: "staging" }).ended;
    expect(code, stderr).toBe(1);
    expect(stderr).toContain("role_unsafe");
    for (const version of ["15.20", "16.16", "17.12", "18.7"]) expect(stderr).toContain(version);
  });

  it.each([
    ["api", "holdfast_service"],
    ["worker", "holdfast_worker"],
  ])("%s does not start with a TICKET_KEY that the database does not know", async (script, login) => {
    const TICKET_KEY = randomBytes(32).toString("base64");
    const { code, stdout, stderr } = await part(script, url(login), { TICKET_KEY }).ended;
    expect({ code, stdout }, stderr).toEqual({ code: 1, stdout: "" });
    expect(stderr).toMatch(/^config_invalid: .*TICKET_KEY.*TICKET_KEY_ID/m);
    expect(stderr).toContain("clocks");
    expect(stderr).not.toContain(TICKET_KEY);
    expect(stderr).not.toMatch(/^ +at /m);
  });

  it("ends at once when its port is taken, and says so", async () => {
    const inTheWay = createServer().listen(0, "127.0.0.1");
    await once(inTheWay, "listening");
    const port = String((inTheWay.address() as AddressInfo).port);
    const { code, stderr, ms } = await part("api", url("holdfast_service"), { HTTP_PORT: port }).ended;
    inTheWay.close();
    expect(code, stderr).toBe(1);
    expect(stderr).toContain(port);
    expect(stderr).not.toMatch(/^ +at /m);
    expect(ms).toBeLessThan(15_000);
  });

  it.each([
    ["a server that is not there", () => "postgresql://holdfast_service:longenough@127.0.0.1:1/holdfast"],
    ["a login that is not there", () => url("no_such_login")],
  ])("says in words that it cannot reach the database: %s", async (_, databaseUrl) => {
    const { code, stdout, stderr } = await part("api", databaseUrl()).ended;
    expect({ code, stdout }).toEqual({ code: 1, stdout: "" });
    expect(stderr).toContain("DATABASE_URL");
    expect(stderr).not.toMatch(/^ +at /m);
    expect(stderr).not.toMatch(/longenough|only-for-tests/);
  });
});

describe("a model that lets its run down", { timeout: 60_000 }, () => {
  let answer: (response: ServerResponse) => void = () => {};
  const provider = createServer((_request, response) => answer(response));
  let host: string;

  beforeAll(async () => {
    provider.listen(0, "127.0.0.1");
    await once(provider, "listening");
    host = `127.0.0.1:${(provider.address() as AddressInfo).port}`;
    await ops.query("select * from ops.llm_price_set($1, 'm', 1, 2, 'a test')", [host]);
  });
  afterAll(() => {
    provider.closeAllConnections();
    provider.close();
  });

  it("leaves a completed run in the template's words, which says why, and holds that are told apart", async () => {
    const llm = { LLM_BASE_URL: `http://${host}/v1`, LLM_MODEL: "m", LLM_DEADLINE_MS: "300" };
    const api = part("api", url("holdfast_service"), llm);
    const worker = part("worker", url("holdfast_worker"), llm);
    const address = await serving(api);
    await worker.seen(/worker_started/);

    // It takes the request and keeps silent.
    expect(await analysed(address, "Timeout")).toMatchObject({
      status: "COMPLETED",
      narrated_by: "template",
      fallback_reason: "llm_timeout",
    });
    answer = (response) => response.writeHead(500).end("{}");
    expect(await analysed(address, "Failing")).toMatchObject({
      status: "COMPLETED",
      narrated_by: "template",
      fallback_reason: "llm_unavailable",
    });
    provider.closeAllConnections();
    provider.close();
    expect(await analysed(address, "Refused")).toMatchObject({
      status: "COMPLETED",
      narrated_by: "template",
      fallback_reason: "llm_unavailable",
    });

    const { rows } = await ops.query(
      "select tenant, status, count(*)::int as holds from ops.llm_calls where model = 'm' group by 1, 2 order by 1, 2",
    );
    expect(rows).toEqual([
      { tenant: "Failing", status: "PRESUMED", holds: 3 },
      { tenant: "Refused", status: "RELEASED", holds: 3 },
      { tenant: "Timeout", status: "PRESUMED", holds: 1 },
    ]);
    const messages = logLines(worker.stderr()).map((line) => line.msg);
    expect(messages.filter((each) => each === "llm_reserved")).toHaveLength(7);
    expect(messages.filter((each) => each === "llm_presumed")).toHaveLength(4);
    expect(messages.filter((each) => each === "llm_released")).toHaveLength(3);
    for (const each of await Promise.all([ending(api), ending(worker)])) expect(each.code).toBe(0);

    const report = JSON.parse(await reportJson({ pool: ops })) as { tenants: Record<string, unknown>[] };
    const line = (tenant: string) => report.tenants.find((each) => each["tenant"] === tenant);
    expect(line("Timeout")).toMatchObject({ state: "llm_timeout", settled: 0 });
    expect(line("Failing")).toMatchObject({ state: "llm_unavailable", settled: 0 });
    expect(line("Refused")).toMatchObject({ state: "llm_unavailable", settled: 0, left: 1 });
    for (const tenant of ["Timeout", "Failing"]) {
      expect(line(tenant)?.["left"]).toBeCloseTo(1 - Number(line(tenant)?.["reserved"]), 9);
      expect(line(tenant)?.["left"]).toBeLessThan(1);
      expect(line(tenant)?.["findings"]).toBeGreaterThan(0);
    }
  });
});

describe("a worker that is told to end while a model thinks", { timeout: 60_000 }, () => {
  let answer: (response: ServerResponse) => void = () => {};
  const provider = createServer((_request, response) => answer(response));
  let llm: Record<string, string>;

  /** A run of the tenant whose request has reached the provider. */
  async function thinking(tenant: string): Promise<Running> {
    const worker = part("worker", url("holdfast_worker"), llm);
    await worker.seen(/worker_started/);
    await call(
      work,
      tenants.get(tenant) ?? "",
      `select id from app.analysis_request($1, $2, provider => $3, model => 'm', input_tokens_bound => 1000,
         max_output_tokens => 1000)`,
      [host()],
      z.object({ id: z.uuid() }),
    );
    await once(provider, "request");
    return worker;
  }

  const host = () => `127.0.0.1:${(provider.address() as AddressInfo).port}`;

  async function lastCall(tenant: string): Promise<unknown> {
    const { rows } = await ops.query(
      `select c.status, r.state from ops.llm_calls as c join ops.jobs as r on r.id = c.run_id
       where c.tenant = $1 order by c.id desc limit 1`,
      [tenant],
    );
    return rows[0];
  }

  beforeAll(async () => {
    provider.listen(0, "127.0.0.1");
    await once(provider, "listening");
    llm = { LLM_BASE_URL: `http://${host()}/v1`, LLM_MODEL: "m" };
    await ops.query("select * from ops.llm_price_set($1, 'm', 1, 2, 'a test')", [host()]);
  });
  afterAll(() => {
    provider.closeAllConnections();
    provider.close();
  });

  it("waits for the answer, pays for it and completes the run", async () => {
    const usage = { prompt_tokens: 100, completion_tokens: 20 };
    const message = { role: "assistant", content: "no JSON" };
    answer = (response) =>
      setTimeout(() => {
        response.writeHead(200, { "content-type": "application/json" });
        response.end(JSON.stringify({ choices: [{ index: 0, message, finish_reason: "stop" }], usage }));
      }, 700);
    const worker = await thinking("Wholesale");
    const { code, stderr } = await ending(worker);
    expect(code, stderr.slice(-2_000)).toBe(0);
    expect(await lastCall("Wholesale")).toEqual({ status: "APPLIED", state: "COMPLETED" });
  });

  it("waits no longer at the second word: the run is given back, and what its call may cost is kept", async () => {
    answer = () => {};
    const worker = await thinking("Failing");
    process.kill(worker.pid, "SIGTERM");
    await sleep(1_200);
    expect(worker.child.exitCode).toBeNull();
    const since = performance.now();
    const { code, stderr } = await ending(worker);
    expect(code, stderr.slice(-2_000)).toBe(0);
    expect(performance.now() - since).toBeLessThan(5_000);
    expect(await lastCall("Failing")).toEqual({ status: "PRESUMED", state: "PENDING" });
  });
});

it("openDb learns what tickets must name, and counts what its login is refused", async () => {
  const metrics = processMetrics();
  const config = readConfig("import", {
    ENVIRONMENT: "development",
    DATABASE_URL: url("holdfast_worker"),
    TICKET_KEY: keys.TICKET_KEY,
  });
  const db = await openDb(config, { name: "worker", url: config.databaseUrl }, metrics);
  try {
    expect(db.ticketBinding).toBe("backend");
    const absent = call(db, randomUUID(), "select * from app.budget_status($1, $2)", [], z.unknown());
    await expect(absent).rejects.toMatchObject({ code: "rls_enforcement_failed" });
    expect(await metrics.registry.metrics()).toContain("\nrls_enforcement_failed_total 1\n");
  } finally {
    await db.pool.end();
  }
});

it.each([
  ["service", "holdfast_service"],
  ["worker", "holdfast_worker"],
  ["import", "holdfast_worker"],
  ["tasks", "holdfast_service"],
] as const)("openDb lets %s in as %s alone", async (part, wanted) => {
  for (const login of ["holdfast_service", "holdfast_worker", "holdfast_ops"]) {
    const DATABASE_URL = url(login);
    const config = readConfig("import", {
      ENVIRONMENT: "development",
      DATABASE_URL,
      TICKET_KEY: keys.TICKET_KEY,
    });
    const opened = openDb(config, { name: part, url: DATABASE_URL }, processMetrics());
    if (login === wanted) await (await opened).pool.end();
    else await expect(opened).rejects.toMatchObject({ code: "role_unsafe", detail: { login, wanted } });
  }
});

describe("a new ticket key", { timeout: 60_000 }, () => {
  const next = { TICKET_KEY: randomBytes(32).toString("base64"), TICKET_KEY_ID: "2" };

  beforeAll(async () => {
    const made = { name: "Rotated", tier: "ACTIVE", timeZone: "UTC", limitUsd: "1", sample: false };
    tenants.set("Rotated", await tenantAdd({ pool: ops }, made, "test"));
  });

  /** What a tenant's own question, and whoever sends requests, hear from an endpoint. */
  async function heard(address: string): Promise<[number, number]> {
    const headers = { authorization: `Bearer ${await tokenOf("Rotated")}` };
    const [asked, ready] = [
      await fetch(`${address}/v1/budget`, { headers }),
      await fetch(`${address}/readyz`),
    ];
    if (asked.ok) expect(await asked.json()).toMatchObject({ budgets: [{ limit_usd: "1" }] });
    return [asked.status, ready.status];
  }

  it("serves beside the old one, which is refused when it is retired, while the new one goes on", async () => {
    const old = part("api", url("holdfast_service"), { LOG_LEVEL: "trace" });
    const oldAddress = await serving(old);
    const early = await part("api", url("holdfast_service"), next).ended;
    expect(early.code, early.stderr).toBe(1);
    expect(early.stderr).toMatch(/^config_invalid: .*number 2 \(TICKET_KEY_ID\): it is unknown or retired$/m);

    const migrated = await part("db:migrate", url("holdfast_admin"), next).ended;
    expect(migrated.code, migrated.stderr).toBe(0);
    const fresh = part("api", url("holdfast_service"), { ...next, LOG_LEVEL: "trace" });
    const freshAddress = await serving(fresh);
    const keys = "select kid, state, binding from ops.ticket_keys order by kid";
    expect((await ops.query(keys)).rows).toEqual([
      { kid: 1, state: "in use", binding: "backend" },
      { kid: 2, state: "in use", binding: "backend" },
    ]);
    for (let round = 0; round < 3; round += 1) {
      expect(await heard(oldAddress)).toEqual([200, 200]);
      expect(await heard(freshAddress)).toEqual([200, 200]);
    }

    await ops.query("select * from ops.ticket_key_retire(1, reason => 'rotated', after => '2 seconds')");
    expect(await heard(oldAddress)).toEqual([200, 200]);
    await expect.poll(() => heard(oldAddress), { timeout: 10_000 }).toEqual([401, 503]);
    expect(await heard(freshAddress)).toEqual([200, 200]);

    const scraped = async (address: string) => (await fetch(`${address}/metrics`)).text();
    const refused = logLines(old.stderr()).filter((line) => line.msg === "rls_enforcement_failed");
    expect(refused.length).toBeGreaterThan(0);
    expect(refused[0]).toMatchObject({
      level: "error",
      status: 401,
      err: {
        code: "rls_enforcement_failed",
        cause: { detail: expect.stringContaining("the ticket is not valid") },
      },
    });
    expect(await scraped(oldAddress)).toContain(`\nrls_enforcement_failed_total ${refused.length}\n`);
    expect(await scraped(freshAddress)).toContain("\nrls_enforcement_failed_total 0\n");
    expect(logLines(old.stderr()).filter((line) => line.msg === "readiness_lost")).toMatchObject([
      { checks: { database: true, ticket_key: false } },
    ]);

    const late = await part("api", url("holdfast_service")).ended;
    expect(late.stderr).toMatch(/^config_invalid: .*number 1 \(TICKET_KEY_ID\): it is unknown or retired$/m);
    const again = await part("db:migrate", url("holdfast_admin")).ended;
    expect(again.code, again.stderr).toBe(1);
    expect(again.stderr).toMatch(/^config_invalid: key number 1 was retired; take a new TICKET_KEY/m);
    expect(again.stderr).not.toContain("migrated");
    for (const each of await Promise.all([ending(old), ending(fresh)])) {
      expect(each.code).toBe(0);
      expect(each.stderr).not.toMatch(/v1\.\d+\./);
    }
  });
});

function inDatabase(): pg.ClientConfig {
  const { connectionString } = server.administrator;
  if (connectionString === undefined) return { database: name };
  return { connectionString: superuserUrl() };
}

/** The administrator of the test server, in our database; a Unix socket goes into the query. */
function superuserUrl(): string {
  const { connectionString, host, port, user, password } = server.administrator;
  if (connectionString !== undefined) {
    const address = new URL(connectionString);
    address.pathname = `/${name}`;
    return address.href;
  }
  const login = typeof password === "string" ? `${user}:${password}` : user;
  return host?.startsWith("/")
    ? `postgresql://${login}@localhost:${port}/${name}?host=${encodeURIComponent(host)}`
    : `postgresql://${login}@${host}:${port}/${name}`;
}
