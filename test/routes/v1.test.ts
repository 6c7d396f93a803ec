import { randomBytes, randomUUID } from "node:crypto";
import { Writable } from "node:stream";
import { afterEach, expect, test } from "vitest";
import { mintToken } from "../../src/auth.ts";
import { createPool } from "../../src/db.ts";
import { createApp, type HttpDeps } from "../../src/http.ts";
import { createLog } from "../../src/log.ts";
import { createMetrics } from "../../src/metrics.ts";
import { newestMigration } from "../../src/migrate.ts";
import { ANALYSIS_BOUND } from "../../src/narrative/prompt.ts";
import { databaseReadiness } from "../../src/routes/probes.ts";
import { testDatabase } from "../support/database.ts";

const config = { jwtSecretKey: randomBytes(32) };
const db = testDatabase();
const sql = async (text: string, values: unknown[]) => (await db.superuser.query(text, values)).rows;
const closers: (() => Promise<unknown>)[] = [];
afterEach(async () => {
  for (const close of closers.splice(0)) await close();
});

function endpoint(over: Partial<HttpDeps> = {}) {
  const lines: string[] = [];
  const destination = new Writable({
    write(chunk, _encoding, done) {
      lines.push(String(chunk));
      done();
    },
  });
  const metrics = createMetrics({ version: "1" });
  const { app } = createApp({
    config,
    log: createLog({ level: "debug", readable: false, destination }),
    metrics,
    llm: { provider: "offline", model: "offline-analyst" },
    ready: () => databaseReadiness(db.service, newestMigration()),
    ...over,
    db: { ...(over.db ?? db.service), onRlsRefusal: metrics.rlsEnforcementFailed },
  });
  closers.push(() => app.close());
  return { app, lines, scrape: () => metrics.registry.metrics() };
}

/** A tenant with a monthly budget in dollars, or with none. */
async function tenant(
  limitUsd: string | null = "10",
): Promise<{ id: string; headers: { authorization: string } }> {
  const { tenantId } = await db.addTenant({ limitUsd: limitUsd ?? "0" });
  if (limitUsd === null) await sql("delete from app.llm_budgets where tenant_id = $1", [tenantId]);
  return { id: tenantId, headers: await bearer(tenantId) };
}

async function bearer(tenantId: string): Promise<{ authorization: string }> {
  return {
    authorization: `Bearer ${await mintToken(config, { tenantId, subject: "joe", expiresIn: "5m" })}`,
  };
}

const runsOf = (tenantId: string) =>
  sql("select id, state from app.job_runs where tenant_id = $1", [tenantId]);

test("an analysis is asked for, has an address, and can be read there", async () => {
  const { app } = endpoint();
  const { id: tenantId, headers } = await tenant();
  const asked = await app.inject({ method: "POST", url: "/v1/analyses", headers });
  expect(asked.statusCode).toBe(202);
  const analysis = asked.json();
  expect(asked.headers.location).toBe(`/v1/analyses/${analysis.id}`);
  expect(analysis).toEqual({
    id: analysis.run_id,
    run_id: expect.stringMatching(/^[0-9a-f-]{36}$/),
    status: "PENDING",
    created_at: expect.stringMatching(/^\d{4}-.*Z$/),
  });
  expect(await runsOf(tenantId)).toEqual([{ id: analysis.run_id, state: "PENDING" }]);

  const read = await app.inject({ url: String(asked.headers.location), headers });
  expect(read.statusCode).toBe(200);
  expect(read.headers["cache-control"]).toBe("no-store");
  expect(read.json()).toEqual({
    ...analysis,
    narrated_by: null,
    fallback_reason: null,
    provider: null,
    model: null,
    summary: null,
    findings: null,
    llm_reserved_nanousd: "0",
    llm_settled_nanousd: "0",
    llm_reserved_usd: "0",
    llm_settled_usd: "0",
    error_code: null,
    started_at: null,
    finished_at: null,
    without: [],
  });
});

test("the same idempotency key is the same analysis, also when both come at once", async () => {
  const { app, lines, scrape } = endpoint();
  const counted = async () =>
    /^holdfast_job_transitions_total\{from="",to="PENDING"\} (\d+)$/m.exec(await scrape())![1];
  const { id, headers } = await tenant();
  const ask = () =>
    app.inject({ method: "POST", url: "/v1/analyses", headers: { ...headers, "idempotency-key": "k-1" } });
  const answers = await Promise.all([ask(), ask(), ask()]);
  answers.push(await ask());
  expect(new Set(answers.map((answer) => `${answer.statusCode} ${answer.json().id}`)).size).toBe(1);
  expect(await runsOf(id)).toHaveLength(1);
  expect(await counted()).toBe("1");
  const requested = () =>
    lines.map((line) => JSON.parse(line)).filter((line) => line.msg === "analysis_requested");
  expect(requested()).toMatchObject([
    { tenant_id: id, subject: "joe", analysis_id: answers[0]!.json().id, run_id: answers[0]!.json().run_id },
  ]);
  const other = await tenant();
  const theirs = await app.inject({
    method: "POST",
    url: "/v1/analyses",
    headers: { ...other.headers, "idempotency-key": "k-1" },
    payload: {},
  });
  expect(theirs.statusCode).toBe(202);
  expect(theirs.json().id).not.toBe(answers[0]!.json().id);
  expect(requested()).toHaveLength(2);
  expect(await counted()).toBe("2");
});

test.each([
  ["a budget of zero", "0", "zero"],
  ["a budget below the bound of one analysis", "0.000001", "too_large"],
  ["no budget", null, "no_budget"],
] as const)("%s is 402 at once, and no run exists", async (_what, limitUsd, reason) => {
  const { app } = endpoint();
  const { id, headers } = await tenant(limitUsd);
  const answer = await app.inject({ method: "POST", url: "/v1/analyses", headers });
  expect(answer.statusCode).toBe(402);
  expect(answer.headers["content-type"]).toMatch(/^application\/problem\+json/);
  expect(answer.json()).toMatchObject({
    type: "urn:holdfast:problem:budget_exceeded",
    title: "Budget exceeded",
    status: 402,
    code: "budget_exceeded",
    reason,
    hint: expect.any(String),
  });
  for (const [name, fact] of Object.entries(answer.json())) {
    if (name.endsWith("_nanousd")) expect([name, typeof fact]).not.toEqual([name, "number"]);
  }
  expect(answer.body).not.toContain(id);
  expect(await runsOf(id)).toEqual([]);
});

test("a model without a price is 402, and no run exists", async () => {
  const { app } = endpoint({ llm: { provider: "nobody", model: "unpriced" } });
  const { id, headers } = await tenant();
  const answer = await app.inject({ method: "POST", url: "/v1/analyses", headers });
  expect([answer.statusCode, answer.json().code]).toEqual([402, "no_price"]);
  expect(await runsOf(id)).toEqual([]);
});

test("the bound that is checked is the bound of an analysis", async () => {
  const { app } = endpoint();
  // The offline analyst's price is 0.15 and 0.60 dollars for a million tokens.
  const bound = BigInt(ANALYSIS_BOUND.inputTokens) * 150n + BigInt(ANALYSIS_BOUND.maxOutputTokens) * 600n;
  const post = async (limit: bigint) => {
    const { headers } = await tenant(`0.${String(limit).padStart(9, "0")}`);
    return (await app.inject({ method: "POST", url: "/v1/analyses", headers })).statusCode;
  };
  expect(bound).toBeLessThan(1_000_000_000n);
  expect(await post(bound)).toBe(202);
  expect(await post(bound - 1n)).toBe(402);
});

test("another tenant's analysis is not there, word for word like one that never was", async () => {
  const { app } = endpoint();
  const [mine, theirs] = [await tenant(), await tenant()];
  const { id } = (await app.inject({ method: "POST", url: "/v1/analyses", headers: theirs.headers })).json();
  const answers = await Promise.all(
    [id, randomUUID()].map((wanted) => app.inject({ url: `/v1/analyses/${wanted}`, headers: mine.headers })),
  );
  const [foreign, absent] = answers.map((answer) => ({ ...answer.json(), instance: "" }));
  expect(answers.map((answer) => answer.statusCode)).toEqual([404, 404]);
  expect(foreign).toEqual(absent);
  expect(foreign.code).toBe("analysis_not_found");
});

async function addFindings(tenantId: string, count: number): Promise<void> {
  await sql(
    `insert into app.findings (tenant_id, fingerprint, detector, detector_version, scope, severity, currency,
       monthly_saving, saving_basis, confidence, rank, evidence, slots, headline, why, caveats,
       remediation_code, run_id)
     select $1, 'f' || n, 'cost_anomaly', 1, '{"service": "Amazon EC2"}', 'high', 'USD',
       case when n = 1 then 12345678901234567890.5 end, case when n = 1 then 'measured' end, 'high', n,
       '{"excess": "12.5"}', '{"service": "Amazon EC2"}', 'Look at {{service}}', 'It rose.',
       array['Check {{service}}'], 'investigate', app_private.uuid_v7()
     from generate_series(1, $2) as n`,
    [tenantId, count],
  );
}

test("findings come best first, worded, with exact money, a page at a time", async () => {
  const { app } = endpoint();
  const { id, headers } = await tenant();
  await addFindings(id, 5);
  const get = async (query: string) => (await app.inject({ url: `/v1/findings?${query}`, headers })).json();
  const first = await get("limit=2");
  expect(first.next_after).toBe(2);
  expect(first.findings[0]).toEqual({
    id: expect.any(String),
    rank: 1,
    detector: "cost_anomaly",
    severity: "high",
    state: "open",
    currency: "USD",
    monthly_saving: "12345678901234567890.5",
    saving_basis: "measured",
    confidence: "high",
    headline: "Look at Amazon EC2",
    why: "It rose.",
    caveats: ["Check Amazon EC2"],
    remediation_code: "investigate",
    narrated_by: "template",
    scope: { service: "Amazon EC2" },
    evidence: { excess: "12.5" },
    first_seen_at: expect.any(String),
    last_seen_at: expect.any(String),
    occurrences: 1,
  });
  expect(first.findings[1].monthly_saving).toBeNull();
  const rest = await get("limit=3&after=2");
  expect(rest.findings.map((finding: { rank: number }) => finding.rank)).toEqual([3, 4, 5]);
  expect(await get(`limit=3&after=${rest.next_after}`)).toEqual({ findings: [], next_after: null });
  expect(await get("state=dismissed")).toEqual({ findings: [], next_after: null });
});

test("a stranger sees no finding and no budget of another tenant", async () => {
  const { app } = endpoint();
  const [mine, theirs] = [await tenant(null), await tenant("7")];
  await addFindings(theirs.id, 3);
  expect((await app.inject({ url: "/v1/findings", headers: mine.headers })).json().findings).toEqual([]);
  expect((await app.inject({ url: "/v1/budget", headers: mine.headers })).json()).toEqual({ budgets: [] });
});

test("a budget is told in nano-USD without losing one", async () => {
  const { app } = endpoint();
  const { headers } = await tenant("9007199.254740993");
  const answer = await app.inject({ url: "/v1/budget", headers });
  expect(answer.statusCode).toBe(200);
  expect(answer.json().budgets).toEqual([
    expect.objectContaining({
      scope: "tenant",
      period: "month",
      period_end: expect.stringMatching(/Z$/),
      limit_nanousd: "9007199254740993",
      spent_nanousd: "0",
      reserved_nanousd: "0",
      presumed_nanousd: "0",
      left_nanousd: "9007199254740993",
      limit_usd: "9007199.254740993",
      spent_usd: "0",
      left_usd: "9007199.254740993",
      hard: true,
    }),
  ]);
});

test("a genuine token of a tenant that is gone or suspended is 401, counted, and tells nothing", async () => {
  const { app, lines, scrape } = endpoint();
  const suspended = await tenant();
  await sql("update app.tenants set status = 'SUSPENDED' where tenant_id = $1", [suspended.id]);
  const unknown = randomUUID();
  for (const [tenantId, headers] of [
    [suspended.id, suspended.headers],
    [unknown, await bearer(unknown)],
  ] as const) {
    const answer = await app.inject({ url: "/v1/findings", headers });
    expect(answer.statusCode).toBe(401);
    expect(answer.headers["www-authenticate"]).toContain('error="invalid_token"');
    expect(answer.json().code).toBe("unauthorized");
    expect(JSON.stringify([answer.body, answer.headers])).not.toContain(tenantId);
  }
  expect(await scrape()).toContain("rls_enforcement_failed_total 2\n");
  const refusal = lines.map((line) => JSON.parse(line)).find((line) => line.msg === "rls_enforcement_failed");
  expect(refusal).toMatchObject({
    level: "error",
    err: { cause: { detail: expect.stringContaining("the tenant is not active") } },
  });
  expect(refusal).not.toHaveProperty("tenant_id");
  expect(lines.join("")).not.toMatch(/v1\.\d/);
});

test("a pool that is exhausted is 503 with Retry-After, and serves again when it is not", async () => {
  const connectionString = db.url("holdfast_service");
  const pool = createPool({
    connectionString,
    application_name: "test",
    max: 1,
    connectionTimeoutMillis: 300,
  });
  closers.push(() => pool.end());
  const { app } = endpoint({ db: { ...db.service, pool } });
  const { headers } = await tenant();
  const held = await pool.connect();
  const refused = await app.inject({ url: "/v1/budget", headers });
  held.release();
  expect([refused.statusCode, refused.headers["retry-after"]]).toEqual([503, "2"]);
  expect((await app.inject({ url: "/v1/budget", headers })).statusCode).toBe(200);
});

test("ready on a database that is migrated", async () => {
  const answer = await endpoint().app.inject("/readyz");
  expect([answer.statusCode, answer.json().checks]).toEqual([
    200,
    { database: true, migrations: true, ticket_key: true, not_draining: true },
  ]);
});

test("not ready on a database that answers and is not migrated, and the log says what it lacks", async () => {
  const url = new URL(db.url("holdfast_service"));
  url.pathname = "/postgres";
  const pool = createPool({ connectionString: url.href, application_name: "test", max: 1 });
  closers.push(() => pool.end());
  const { app, lines } = endpoint({
    ready: () => databaseReadiness({ ...db.service, pool }, newestMigration()),
  });
  const answer = await app.inject("/health");
  expect([answer.statusCode, answer.json().code]).toEqual([503, "service_unavailable"]);
  expect(answer.json().checks).toEqual({
    database: true,
    migrations: false,
    ticket_key: false,
    not_draining: true,
  });
  expect(lines.map((line) => JSON.parse(line))[0]).toMatchObject({
    msg: "readiness_lost",
    err: { sqlstate: "3F000" },
  });
});

test("not ready on a database that lacks the newest migration, or where none is listed", async () => {
  const ahead = await databaseReadiness(db.service, "999999.sql");
  expect(ahead).toEqual({
    ready: false,
    checks: { database: true, migrations: false, ticket_key: true },
  });
  await sql("alter table graphile_migrate.migrations rename to away", []);
  try {
    expect(await databaseReadiness(db.service, newestMigration())).toEqual(ahead);
  } finally {
    await sql("alter table graphile_migrate.away rename to migrations", []);
  }
  expect(await databaseReadiness(db.service, newestMigration())).toMatchObject({ ready: true });
});

test("not ready with a ticket key that the database does not know", async () => {
  for (const ticketKey of [
    { kid: db.service.ticketKey.kid, secret: randomBytes(32) },
    { ...db.service.ticketKey, kid: 77 },
  ]) {
    expect(await databaseReadiness({ ...db.service, ticketKey }, newestMigration())).toEqual({
      ready: false,
      checks: { database: true, migrations: true, ticket_key: false },
    });
  }
});
