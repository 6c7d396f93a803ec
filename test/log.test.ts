import { execFile } from "node:child_process";
import { randomBytes, randomUUID } from "node:crypto";
import { Writable } from "node:stream";
import { promisify } from "node:util";
import pg from "pg";
import { expect, test } from "vitest";
import { AppError } from "../src/errors.ts";
import { createLog, type LogOptions } from "../src/log.ts";
import { mintTicket } from "../src/tickets.ts";

function capture(options: Partial<LogOptions> = {}) {
  const lines: string[] = [];
  const destination = new Writable({
    write(chunk, _encoding, done) {
      lines.push(String(chunk));
      done();
    },
  });
  const log = createLog({ level: "trace", readable: false, destination, ...options });
  return { log, lines, last: () => JSON.parse(lines.at(-1)!) as Record<string, unknown> };
}

const ticket = mintTicket({ kid: 1, secret: randomBytes(32) }, randomUUID(), 4711);
const bearer = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJqb2UifQ.c2lnbmF0dXJlLW9mLWEtdG9rZW4";
const connection = "postgres://holdfast_service:s3cr3t-of-db@db.internal:5432/holdfast";
const prompt = "These are the costs of the tenant: candidate c1 is dear";
const SECRETS = { ticket, bearer: bearer.slice(40), connection: "s3cr3t-of-db", prompt: "candidate c1" };

function expectNoSecret(text: string) {
  for (const [name, secret] of Object.entries(SECRETS)) expect(text.includes(secret), name).toBe(false);
}

test("a line is one JSON object with level, time, part and what was said", () => {
  const { log, lines, last } = capture({ part: "worker" });
  log.child({ tenant_id: "t-1" }).info({ run_id: "r-1", attempt: 1, cost_nanousd: 12n }, "run_completed");
  expect(lines).toHaveLength(1);
  expect(lines[0]!.indexOf("\n")).toBe(lines[0]!.length - 1);
  expect(last()).toEqual({
    level: "info",
    time: expect.stringMatching(/^\d{4}-\d\d-\d\dT[\d:.]+Z$/),
    part: "worker",
    tenant_id: "t-1",
    run_id: "r-1",
    attempt: 1,
    cost_nanousd: 12,
    msg: "run_completed",
  });
});

test.each([
  [
    "in fields with their names",
    { ticket, authorization: `Bearer ${bearer}`, DATABASE_URL: connection, prompt },
  ],
  [
    "deep in an object",
    { a: { b: { c: { d: { Ticket: ticket, "api-key": bearer, messages: [{ content: prompt }] } } } } },
  ],
  [
    "in headers",
    { req: { headers: { authorization: bearer, cookie: prompt, "x-database-url": connection } } },
  ],
  [
    "in fields with harmless names",
    { a: [ticket, `Bearer ${bearer}`, connection], b: { text: `to ${connection} as ${ticket}` } },
  ],
  [
    "in a connection string of keys and values",
    { dsn: `host=db password='s3cr3t-of-db' user=x`, uri: "db?password=s3cr3t-of-db&a=b" },
  ],
  ["under a prompt that is an object", { prompt: { text: prompt }, requestBodyValues: { system: prompt } }],
])("no secret gets out %s", (_where, fields) => {
  const { log, lines } = capture();
  log.info(fields, "said");
  log.child(fields).warn("said by a child");
  expect(lines).toHaveLength(2);
  for (const line of lines) {
    expectNoSecret(line);
    expect(line).toContain("[redacted]");
  }
});

test("no secret gets out in a message", () => {
  const { log, lines } = capture();
  log.info(`ticket ${ticket} for ${connection}`);
  log.info("sent Authorization: Bearer %s", bearer);
  log.info("key sk-live-0123456789abcdef and basic dXNlcjpwYXNzd29yZA==");
  expectNoSecret(lines.join(""));
  expect(lines.join("")).not.toMatch(/sk-live|dXNlcjpw/);
  expect(lines[0]).toContain("postgres://holdfast_service:[redacted]@db.internal:5432/holdfast");
});

test("what is not a secret stays: counts, hashes, names", () => {
  const { log, last } = capture();
  const fields = {
    input_tokens: 12,
    max_output_tokens: 900,
    prompt_hash: "ab12",
    content_type: "text/csv",
    ticket_key_id: 1,
    checks: { ticket_key: false },
  };
  log.info(fields, "v1.2 of https://example.org/a:b@c is out");
  expect(last()).toMatchObject(fields);
  log.info({ url: "http://127.0.0.1:8402/v1/findings?limit=5" }, "ok");
  expect(last()).toMatchObject({ url: "http://127.0.0.1:8402/v1/findings?limit=5" });
});

test.each([
  ["whole", ticket],
  ["without its signature", ticket.replace(/\.[0-9a-f]{64}$/, "")],
  ["cut off in its signature", ticket.slice(0, -60)],
  ["cut off in its tenant", ticket.slice(0, 20)],
  ["in capitals", ticket.toUpperCase()],
])("a ticket gets out nowhere: %s", (_how, part) => {
  const { log, lines } = capture();
  const refused = Object.assign(new pg.DatabaseError("rls_enforcement_failed", 0, "error"), {
    code: "RL101",
    where: `unnamed portal with parameters: $1 = 'x', $2 = '${part}'`,
    hint: part,
    detail: part,
    internalQuery: part,
    parameters: [part],
  });
  log.trace({ err: refused, parameters: [part], text: `(${part})` }, `said ${part}`);
  log.child({ bound: part }).debug(new Error(part, { cause: refused }));
  log.fatal({ error: new AppError("rls_enforcement_failed", { cause: refused, hint: part }) });
  expect(lines).toHaveLength(3);
  expect(lines.join("")).not.toMatch(/v1\.\d+\./i);
});

test("an error keeps its name, SQLSTATE, facts, hint and causes, and loses its secrets", () => {
  const { log, lines, last } = capture();
  const cause = Object.assign(new Error(`connect to ${connection}`), {
    code: "ECONNREFUSED",
    config: { ticket },
  });
  const detail = { reason: "exhausted", needed_nanousd: 5, ticket, seen: [`Bearer ${bearer}`] };
  const error = new AppError("budget_exceeded", { detail, hint: "Raise the limit.", cause });
  log.error({ err: error, tenant_id: "t" }, "run_failed");
  expect(last()).toMatchObject({
    err: {
      code: "budget_exceeded",
      sqlstate: "LB101",
      status: 402,
      hint: "Raise the limit.",
      detail: { reason: "exhausted", needed_nanousd: 5, ticket: "[redacted]" },
      stack: expect.stringContaining("log.test.ts"),
      cause: { code: "ECONNREFUSED", message: expect.stringContaining("db.internal") },
    },
  });
  expectNoSecret(lines.join(""));
});

test("an error of a client that carries its request is logged without it", () => {
  const { log, lines, last } = capture();
  const error = Object.assign(new Error("Bad Request"), {
    body: prompt,
    responseBody: prompt,
    options: { bearer },
  });
  log.error(error);
  log.error({ error }, "and under the other name");
  expectNoSecret(lines.join(""));
  expect(last()).toMatchObject({ error: { type: "Error", message: "Bad Request" } });
});

test("a database error shows its SQLSTATE and place, and a detail only for a refused tenant", () => {
  const { log, last } = capture();
  const error = Object.assign(new pg.DatabaseError("duplicate key", 0, "error"), {
    code: "23505",
    constraint: "tenants_name_key",
    table: "tenants",
    detail: "Key (name)=(the name of a customer) already exists.",
  });
  log.error({ err: error }, "failed");
  expect(last()).toMatchObject({
    err: { sqlstate: "23505", constraint: "tenants_name_key", table: "tenants" },
  });
  expect(JSON.stringify(last())).not.toContain("customer");

  const refused = Object.assign(new pg.DatabaseError("rls_enforcement_failed", 0, "error"), {
    code: "RL101",
    detail: "the tenant is not active",
  });
  log.error({ err: new AppError("rls_enforcement_failed", { cause: refused }) }, "refused");
  expect(last()).toMatchObject({ err: { cause: { sqlstate: "RL101", detail: "the tenant is not active" } } });
});

test("causes that go round in a circle end", () => {
  const { log, lines } = capture();
  const error = new Error("a");
  error.cause = new Error("b", { cause: error });
  log.error(error);
  expect(lines).toHaveLength(1);
});

test("what is thrown and is no error is described all the same", () => {
  const { log, last } = capture();
  log.error({ err: `no ${ticket}` }, "odd");
  expect(last()).toMatchObject({ err: { type: "string", message: "no [redacted]" } });
});

test("on a terminal a line is for people, and keeps no more secrets than JSON does", async () => {
  const { log, lines } = capture({ readable: true });
  log.child({ tenant_id: "t-1" }).info({ ticket }, `run_claimed with ${connection}`);
  log.error({ err: new AppError("budget_exceeded", { detail: { reason: ticket } }) }, "run_failed");
  await expect.poll(() => lines.join("")).toContain("run_failed");
  expect(lines.join("")).toMatch(/^\[\d\d:\d\d:\d\d\] INFO: run_claimed with .*"tenant_id":"t-1"/);
  expectNoSecret(lines.join(""));
});

test("a process logs on stderr, and leaves stdout to its results", async () => {
  const module = new URL("../src/log.ts", import.meta.url).href;
  const script = `const { createLog } = await import(${JSON.stringify(module)});
    createLog({ level: "info", part: "api" }).info("started");
    process.exit(0);`;
  const run = promisify(execFile)(process.execPath, ["--input-type=module", "-e", script]);
  const { stdout, stderr } = await run;
  expect(stdout).toBe("");
  expect(JSON.parse(stderr)).toMatchObject({ level: "info", part: "api", msg: "started" });
});

test("below its level nothing is written", () => {
  const { log, lines } = capture({ level: "warn" });
  log.info("no");
  log.warn("yes");
  expect(lines).toHaveLength(1);
});
