// A bad ticket at the edge: a real endpoint, a real database and the real log. Each refusal is one answer, one line and
// one count, and none of them tells a tenant, a ticket or what the database made of it.
import { createHmac, randomBytes, randomUUID } from "node:crypto";
import { Writable } from "node:stream";
import type pg from "pg";
import { afterAll, afterEach, beforeAll, describe, expect, test } from "vitest";
import { mintToken } from "../src/auth.ts";
import { createPool, type Db } from "../src/db.ts";
import { createApp } from "../src/http.ts";
import { createLog } from "../src/log.ts";
import { createMetrics } from "../src/metrics.ts";
import { mintTicket } from "../src/tickets.ts";
import { TEST_TICKET_KEY } from "./support/constants.ts";
import { testDatabase } from "./support/database.ts";
import { endProcesses, PROJECT, run } from "./support/process.ts";

const database = testDatabase();
const config = { jwtSecretKey: randomBytes(32) };
const tenants = { mine: "", foreign: "" };
const TICKET = /v1\.\d+\./;
const CAST = /invalid input syntax|22P02|\$\d = /;

beforeAll(async () => {
  tenants.mine = (await database.addTenant()).tenantId;
  tenants.foreign = (await database.addTenant()).tenantId;
});

/** What becomes of a statement of the endpoint on its way to the server. */
type Tampering = (client: pg.PoolClient, text: string, values: unknown[]) => [string, unknown[]];

let tampering: Tampering | undefined;
let endpoint: Awaited<ReturnType<typeof serve>>;

/** An endpoint that listens, on a server that quotes parameters in errors, with a log that leaves nothing out. */
async function serve() {
  const lines: string[] = [];
  const destination = new Writable({
    write(chunk, _encoding, done) {
      lines.push(String(chunk));
      done();
    },
  });
  const pool = createPool({
    connectionString: database.url("holdfast_service"),
    application_name: "test",
    options: "-c log_parameter_max_length_on_error=-1",
  });
  pool.on("connect", (client) => {
    const query = client.query.bind(client) as (text: string, values?: unknown[]) => Promise<unknown>;
    Object.assign(client, {
      query: (text: string, values?: unknown[]) =>
        tampering === undefined || values === undefined
          ? query(text, values)
          : query(...tampering(client, text, values)),
    });
  });
  const metrics = createMetrics({ version: "1" });
  const { app } = createApp({
    db: {
      pool,
      ticketKey: TEST_TICKET_KEY,
      ticketBinding: "backend",
      onRlsRefusal: metrics.rlsEnforcementFailed,
    },
    config,
    log: createLog({ level: "trace", readable: false, destination }),
    metrics,
    llm: { provider: "offline", model: "offline-analyst" },
    ready: async () => ({ ready: true, checks: {} }),
  });
  const url = await app.listen({ host: "127.0.0.1", port: 0 });
  const counted = async () =>
    Number(/^rls_enforcement_failed_total (\d+)$/m.exec(await metrics.registry.metrics())?.[1]);
  const close = async () => {
    await app.close();
    await pool.end();
  };
  return { url, lines, counted, close };
}

beforeAll(async () => {
  endpoint = await serve();
});
afterEach(async () => {
  tampering = undefined;
  endpoint.lines.splice(0);
  await endProcesses();
});
afterAll(() => endpoint.close());

async function ask(): Promise<{ status: number; text: string; headers: string }> {
  const token = await mintToken(config, { tenantId: tenants.mine, subject: "joe", expiresIn: "5m" });
  const answer = await fetch(`${endpoint.url}/v1/budget`, { headers: { authorization: `Bearer ${token}` } });
  return { status: answer.status, text: await answer.text(), headers: JSON.stringify([...answer.headers]) };
}

type Line = Record<string, unknown> & { msg: string };

/** The lines of the one request of a test, once its last is written. */
async function logged(): Promise<Line[]> {
  const parsed = () => endpoint.lines.map((line) => JSON.parse(line) as Line);
  await expect.poll(() => parsed().map((line) => line.msg)).toContain("request");
  return parsed();
}

const withTicket =
  (ticketOf: (own: string, client: pg.PoolClient) => unknown): Tampering =>
  (client, text, [tenant, own, ...rest]) => [text, [tenant, ticketOf(String(own), client), ...rest]];

/** The ticket with parts of it replaced, and a signature that fits. */
function resigned(own: string, change: (parts: string[]) => void, key = TEST_TICKET_KEY): string {
  const parts = own.split(".").slice(0, 5);
  change(parts);
  const body = parts.join(".");
  return `${body}.${createHmac("sha256", key.secret).update(body).digest("hex")}`;
}

const expired = String(Math.floor(Date.now() / 1000) - 1);
const BAD_TICKETS: Record<string, Tampering> = {
  missing: withTicket(() => null),
  empty: withTicket(() => ""),
  "no ticket at all": withTicket(() => "Bearer of bad news"),
  "cut off": withTicket((own) => own.slice(0, -1)),
  "cut off in its tenant": withTicket((own) => own.slice(0, 20)),
  "with a tenant that is no uuid": withTicket((own) =>
    resigned(own, (parts) => parts.splice(2, 1, "not-a-uuid' or '1'='1")),
  ),
  "with a number that is none": withTicket((own) => resigned(own, (parts) => parts.splice(4, 1, "9e99"))),
  expired: withTicket((own) => resigned(own, (parts) => parts.splice(4, 1, expired))),
  forged: withTicket((own) => resigned(own, () => {}, { kid: 1, secret: randomBytes(32) })),
  "of a key that is not there": withTicket(() =>
    mintTicket({ ...TEST_TICKET_KEY, kid: 77 }, tenants.mine, 0),
  ),
  "of another tenant": withTicket((own) => resigned(own, (parts) => parts.splice(2, 1, tenants.foreign))),
  "of another backend": withTicket((own) => resigned(own, (parts) => parts.splice(3, 1, "1"))),
  "for another tenant than the call's": (_client, text, [, own, ...rest]) => [
    text,
    [tenants.foreign, own, ...rest],
  ],
  "for a second tenant": (client, _text, [tenant, own]) => [
    "select app.enter($1, $2), app.enter($3, $4)",
    [tenant, own, tenants.foreign, mintTicket(TEST_TICKET_KEY, tenants.foreign, pidOf(client))],
  ],
};

const pidOf = (client: pg.PoolClient) => (client as unknown as { processID: number }).processID;

describe("a ticket that is", () => {
  test.each(Object.entries(BAD_TICKETS))(
    "%s is 401: one line, one count, and nothing told",
    async (_what, bad) => {
      const before = await endpoint.counted();
      tampering = bad;
      const { status, text, headers } = await ask();
      const lines = await logged();

      expect(status, text).toBe(401);
      expect(JSON.parse(text)).toEqual({
        type: "urn:holdfast:problem:unauthorized",
        title: "Unauthorized",
        status: 401,
        code: "unauthorized",
        instance: expect.any(String),
      });
      expect(await endpoint.counted()).toBe(before + 1);
      expect(lines.map(({ level, msg }) => ({ level, msg }))).toEqual([
        { level: "error", msg: "rls_enforcement_failed" },
        { level: "info", msg: "request" },
      ]);
      expect(lines[0]).toMatchObject({
        request_id: JSON.parse(text).instance,
        status: 401,
        err: {
          code: "rls_enforcement_failed",
          status: 500,
          detail: {},
          cause: { sqlstate: "RL101", detail: expect.stringMatching(/^\{"reason": "[\w ,:?]+"\}$/) },
        },
      });
      const told = text + headers + JSON.stringify(lines[0]);
      for (const secret of [tenants.mine, tenants.foreign, TICKET, CAST]) {
        expect(told).not.toMatch(secret);
      }
      // Whose request it was stands in its own line.
      expect(lines[1]).toMatchObject({ request_id: lines[0]!["request_id"], tenant_id: tenants.mine });
      expect(JSON.stringify(lines)).not.toMatch(TICKET);

      tampering = undefined;
      expect((await ask()).status).toBe(200);
    },
  );
});

const asTenant: Tampering = (client, _text, values) => {
  void (client.query as (text: string) => Promise<unknown>)("set role holdfast_tenant");
  return ["select t.*, $1::uuid, $2::text from tenant.tenants as t", values];
};

test.each<[string, Tampering, { line: string; counted: number }]>([
  ["that a policy stopped, for it never entered", asTenant, { line: "rls_enforcement_failed", counted: 1 }],
  [
    "without the right to do it",
    (_client, _text, values) => ["select k.*, $1::uuid, $2::text from app_private.ticket_keys as k", values],
    { line: "request_failed", counted: 0 },
  ],
  [
    "whose parameter is of another type",
    (_client, text, [, ...rest]) => [text, ["no uuid", ...rest]],
    { line: "request_failed", counted: 0 },
  ],
])("a statement of ours %s is a bug: 500, one line, nothing told", async (_what, bug, { line, counted }) => {
  const before = await endpoint.counted();
  tampering = bug;
  const { status, text, headers } = await ask();
  const lines = await logged();
  expect(status, text).toBe(500);
  expect(JSON.parse(text)).toMatchObject({ code: "internal_error", title: "Internal error" });
  expect(lines.map(({ level, msg }) => ({ level, msg }))).toEqual([
    { level: "error", msg: line },
    { level: "info", msg: "request" },
  ]);
  expect(await endpoint.counted()).toBe(before + counted);
  expect(text + headers).not.toMatch(CAST);
  expect(text + headers).not.toContain(tenants.mine);
  expect(text + headers + JSON.stringify(lines)).not.toMatch(TICKET);
});

test("a refusal that nobody awaits ends the process, and even then no ticket is printed", async () => {
  const module = (name: string) => JSON.stringify(new URL(`../src/${name}`, import.meta.url).href);
  const db: Omit<Db, "pool" | "ticketKey"> = { ticketBinding: "backend" };
  const script = `
    const { call, createPool } = await import(${module("db.ts")});
    const pool = createPool({ connectionString: process.env.ADDRESS, application_name: "test",
      options: "-c log_parameter_max_length_on_error=-1" });
    const ticketKey = { kid: 7, secret: Buffer.alloc(32, 1) };
    void call({ ...${JSON.stringify(db)}, pool, ticketKey }, ${JSON.stringify(tenants.mine)},
      "select * from app.budget_status($1, $2)", [], { parse: (row) => row });`;
  const { code, stderr } = await run("node", ["--input-type=module", "-e", script], {
    ADDRESS: database.url("holdfast_service"),
    INIT_CWD: PROJECT,
  }).ended;
  expect(code).toBe(1);
  expect(stderr).toContain("rls_enforcement_failed");
  expect(stderr).toContain("app.enter");
  expect(stderr).not.toMatch(TICKET);
  expect(stderr).not.toContain(tenants.mine);
});

test("a tenant that is not there is refused as one that is not active is", async () => {
  const token = (tenantId: string) => mintToken(config, { tenantId, subject: "joe", expiresIn: "5m" });
  const answers: unknown[] = [];
  const suspended = (await database.addTenant()).tenantId;
  await database.superuser.query("update app.tenants set status = 'SUSPENDED' where tenant_id = $1", [
    suspended,
  ]);
  for (const tenantId of [randomUUID(), suspended]) {
    const headers = { authorization: `Bearer ${await token(tenantId)}` };
    const answer = await fetch(`${endpoint.url}/v1/budget`, { headers });
    const { instance, ...body } = (await answer.json()) as { instance: string };
    expect(instance).toMatch(/^[0-9a-f-]{36}$/);
    answers.push([answer.status, body]);
  }
  expect(answers[0]).toEqual(answers[1]);
});
