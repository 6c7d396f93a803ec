// src/routes/jobs.ts and src/job_api.ts: a tenant's own runs over HTTP.
import { randomBytes, randomUUID } from "node:crypto";
import { Writable } from "node:stream";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { mintToken } from "../../src/auth.ts";
import { createApp, type HttpApp } from "../../src/http.ts";
import { createLog } from "../../src/log.ts";
import { createMetrics } from "../../src/metrics.ts";
import { testDatabase } from "../support/database.ts";
import { runsOf } from "../support/runs.ts";

const config = { jwtSecretKey: randomBytes(32) };
const database = testDatabase();
const runs = runsOf(database);
const lines: string[] = [];
const metrics = createMetrics({ version: "1" });
let app: HttpApp["app"];

beforeAll(async () => {
  const destination = new Writable({
    write(chunk, _encoding, done) {
      lines.push(String(chunk));
      done();
    },
  });
  ({ app } = createApp({
    config,
    db: database.service,
    log: createLog({ level: "debug", readable: false, destination }),
    metrics,
    llm: { provider: "offline", model: "offline-analyst" },
    ready: async () => ({ ready: true, checks: { database: true, migrations: true, ticket_key: true } }),
  }));
  await runs.addKind("mail");
  await database.superuser.query(
    `update app.job_kinds set tenant_enqueues = true, max_waiting = 3,
       input_schema = '{"type": "object", "properties": {"to": {"type": "string"}}, "additionalProperties": false}'
     where kind = 'mail'`,
  );
  await runs.addKind("inner");
});
afterAll(() => app.close());

type Caller = { id: string; headers: { authorization: string } };

async function tenant(): Promise<Caller> {
  const { tenantId } = await database.addTenant();
  const token = await mintToken(config, { tenantId, subject: "joe", expiresIn: "5m" });
  return { id: tenantId, headers: { authorization: `Bearer ${token}` } };
}

const post = ({ headers }: Caller, url: string, payload?: object, more: Record<string, string> = {}) =>
  app.inject({ method: "POST", url, headers: { ...headers, ...more }, ...(payload && { payload }) });
const get = ({ headers }: Caller, url: string) => app.inject({ url, headers });

async function made(caller: Caller, payload: object = { kind: "mail" }): Promise<string> {
  const answer = await post(caller, "/v1/jobs", payload);
  expect(answer.statusCode).toBe(202);
  return answer.json().id;
}

/** What `act` has added to the changes of state that the endpoint counts: how many, by "PENDING DEAD_LETTER". */
async function changesIn(act: () => Promise<unknown>): Promise<Record<string, number>> {
  const counted = async () => {
    const { values } = await metrics.registry.getSingleMetric("holdfast_job_transitions_total")!.get();
    return values.map(({ labels, value }) => ({ change: `${labels["from"]} ${labels["to"]}`, value }));
  };
  const before = new Map((await counted()).map(({ change, value }) => [change, value]));
  await act();
  const added = (await counted()).map(
    ({ change, value }) => [change, value - (before.get(change) ?? 0)] as const,
  );
  return Object.fromEntries(added.filter(([, count]) => count !== 0));
}

async function dead(caller: Caller): Promise<string> {
  const runId = await runs.running(caller.id, "mail");
  await runs.fail(caller.id, runId, 1, "sqlstate_23505", "The row was there.");
  return runId;
}

test("a job is asked for, has an address, and can be read there", async () => {
  const caller = await tenant();
  const runAt = new Date(Date.now() + 3_600_000).toISOString();
  const asked = await post(caller, "/v1/jobs", {
    kind: "mail",
    input: { to: "ann" },
    run_at: runAt,
    priority: 5,
  });
  expect(asked.statusCode).toBe(202);
  const { id } = asked.json();
  expect(asked.headers.location).toBe(`/v1/jobs/${id}`);
  expect(asked.json()).toEqual({
    id,
    state: "PENDING",
    available_at: runAt,
    created_at: expect.stringMatching(/^\d{4}-.*Z$/),
  });
  expect(lines.map((line) => JSON.parse(line))).toContainEqual(
    expect.objectContaining({
      msg: "job_enqueued",
      tenant_id: caller.id,
      subject: "joe",
      run_id: id,
      kind: "mail",
    }),
  );

  const read = await get(caller, `/v1/jobs/${id}`);
  expect(read.statusCode).toBe(200);
  expect(read.json()).toEqual({
    id,
    kind: "mail",
    state: "PENDING",
    slot: null,
    attempt: 0,
    priority: 5,
    progress: null,
    progress_text: null,
    error_code: null,
    error: null,
    available_at: runAt,
    created_at: asked.json().created_at,
    started_at: null,
    finished_at: null,
    cancel_requested_at: null,
    discarded_at: null,
    failure_count: 0,
    crash_count: 0,
    replay_count: 0,
    input: { to: "ann" },
    result: null,
    actor: null,
    reason: null,
    events: [
      {
        at: expect.any(String),
        from: null,
        to: "PENDING",
        attempt: 0,
        actor: expect.any(String),
        reason: null,
      },
    ],
  });
});

test("the same idempotency key is the same job; another body is refused", async () => {
  const caller = await tenant();
  const ask = (payload: object) => post(caller, "/v1/jobs", payload, { "idempotency-key": "k-1" });
  const answers = await Promise.all([ask({ kind: "mail" }), ask({ kind: "mail" }), ask({ kind: "mail" })]);
  expect(new Set(answers.map((answer) => `${answer.statusCode} ${answer.json().id}`)).size).toBe(1);
  const other = await ask({ kind: "mail", input: { to: "bob" } });
  expect([other.statusCode, other.json().code]).toEqual([422, "idempotency_conflict"]);
});

test.each([
  [{ kind: "nope" }, 400, { code: "job_kind_unknown" }],
  [{ kind: "inner" }, 403, { code: "job_kind_not_enqueueable" }],
  [
    { kind: "mail", input: { to: 7 } },
    422,
    { code: "job_input_invalid", path: "$.to", fault: "$.to: is no string" },
  ],
  [{ kind: "mail", input: null }, 422, { code: "job_input_invalid", path: "$" }],
  [{ kind: "mail", run_at: "9999-01-01T00:00:00Z" }, 400, { code: "argument_invalid" }],
  [{ kind: "mail", run_at: "tomorrow" }, 400, { code: "invalid_request" }],
  [{ kind: "mail", priority: 1000 }, 400, { code: "invalid_request" }],
  [{ kind: "mail", more: 1 }, 400, { code: "invalid_request" }],
  [{}, 400, { code: "invalid_request" }],
])("%j is refused with %i", async (payload, status, body) => {
  const caller = await tenant();
  const answer = await post(caller, "/v1/jobs", payload);
  expect(answer.headers["content-type"]).toMatch(/^application\/problem\+json/);
  expect(answer.statusCode).toBe(status);
  expect(answer.json()).toMatchObject(body);
  expect((await get(caller, "/v1/jobs")).json().jobs).toEqual([]);
});

test("each change of state that the endpoint makes is counted, and none that it does not make", async () => {
  const caller = await tenant();
  const enqueue = (more = {}, payload: object = { kind: "mail" }) => post(caller, "/v1/jobs", payload, more);
  const key = { "idempotency-key": "counted" };
  expect(await changesIn(() => enqueue(key))).toEqual({ " PENDING": 1 });
  expect(await changesIn(() => enqueue(key))).toEqual({});
  expect(await changesIn(() => enqueue({}, { kind: "inner" }))).toEqual({});
  const [first, second] = [await made(caller), await made(caller)];
  expect(await changesIn(enqueue)).toEqual({}); // too many wait

  const act =
    (id: string, what: string, more = {}) =>
    () =>
      post(caller, `/v1/jobs/${id}/${what}`, { reason: "for a test", ...more });
  expect(await changesIn(act(first, "cancel"))).toEqual({ "PENDING DEAD_LETTER": 1 });
  expect(await changesIn(act(first, "cancel"))).toEqual({});
  expect(await changesIn(act(second, "cancel", { reason: "" }))).toEqual({});
  expect(await changesIn(act(second, "cancel"))).toEqual({ "PENDING DEAD_LETTER": 1 });
  expect(await changesIn(act(randomUUID(), "cancel"))).toEqual({});

  const running = await runs.running(caller.id, "mail");
  expect(await changesIn(act(running, "cancel"))).toEqual({}); // its worker is asked to
  expect(await changesIn(act(running, "cancel", { force: true }))).toEqual({ "RUNNING DEAD_LETTER": 1 });
  const failed = await runs.running(caller.id, "mail");
  await runs.fail(caller.id, failed, 1);
  expect(await changesIn(act(failed, "cancel"))).toEqual({ "FAILED DEAD_LETTER": 1 });
  const done = await runs.running(caller.id, "mail");
  await runs.complete(caller.id, done, 1, {});
  expect(await changesIn(act(done, "cancel"))).toEqual({});

  const letter = await dead(caller);
  expect(await changesIn(act(letter, "discard"))).toEqual({}); // it stays what it is
  expect(await changesIn(act(letter, "replay"))).toEqual({ "DEAD_LETTER PENDING": 1 });
  expect(await changesIn(act(letter, "replay"))).toEqual({});
  // A refusal reaches us before its lock is gone, and a claim passes over what is locked.
  await expect.poll(() => runs.claim(caller.id, letter)).toMatchObject({ attempt: 2 });
  await runs.fail(caller.id, letter, 2, "sqlstate_23505");
  expect(await changesIn(act(letter, "replay"))).toEqual({ "DEAD_LETTER PENDING": 1 });
});

test("one more than may wait is 429 with Retry-After", async () => {
  const caller = await tenant();
  for (let n = 0; n < 3; n += 1) await made(caller);
  const answer = await post(caller, "/v1/jobs", { kind: "mail" });
  expect([answer.statusCode, answer.headers["retry-after"]]).toEqual([429, "2"]);
  expect(answer.json()).toMatchObject({ code: "job_queue_full", max_waiting: 3 });
});

test("jobs are listed newest first, a page at a time, by state and kind", async () => {
  const caller = await tenant();
  const ids = [await made(caller), await made(caller), await made(caller)].reverse();
  const page = async (query: string) => {
    const body = (await get(caller, `/v1/jobs?${query}`)).json();
    return [body.jobs.map((job: { id: string }) => job.id), body.next_before];
  };
  expect(await page("")).toEqual([ids, null]);
  expect(await page("limit=2")).toEqual([ids.slice(0, 2), ids[1]]);
  expect(await page(`limit=2&before=${ids[1]}`)).toEqual([ids.slice(2), null]);
  expect(await page("state=PENDING&kind=mail&limit=1")).toEqual([[ids[0]], ids[0]]);
  expect(await page("state=COMPLETED")).toEqual([[], null]);
  for (const query of ["state=DONE", "limit=0", "before=x", "more=1"]) {
    expect((await get(caller, `/v1/jobs?${query}`)).statusCode).toBe(400);
  }
});

describe("what a tenant does with a job", () => {
  test("cancel: one that waits, one that runs, one by force, one that has ended", async () => {
    const caller = await tenant();
    const waiting = await made(caller);
    const cancel = (id: string, body: object = { reason: "not needed" }) =>
      post(caller, `/v1/jobs/${id}/cancel`, body);
    expect((await cancel(waiting)).json()).toEqual({
      ...{ id: waiting, state: "DEAD_LETTER" },
      ...{ cancel_requested_at: expect.any(String), finished_at: expect.any(String) },
    });
    expect((await get(caller, `/v1/jobs/${waiting}`)).json()).toMatchObject({
      error_code: "job_cancelled",
      actor: "joe",
      reason: "not needed",
    });
    const running = await runs.running(caller.id, "mail");
    const asked = await cancel(running);
    expect([asked.statusCode, asked.json().state]).toEqual([200, "RUNNING"]);
    expect((await cancel(running, { reason: "at once", force: true })).json()).toMatchObject({
      state: "DEAD_LETTER",
    });
    const done = await runs.running(caller.id, "mail");
    await runs.complete(caller.id, done, 1, {});
    const refused = await cancel(done);
    expect([refused.statusCode, refused.json().code]).toEqual([409, "job_ended"]);
  });

  test("replay and discard a dead letter", async () => {
    const caller = await tenant();
    const id = await dead(caller);
    const discarded = await post(caller, `/v1/jobs/${id}/discard`, { reason: "of no use" });
    expect([discarded.statusCode, discarded.json()]).toEqual([
      200,
      { id, state: "DEAD_LETTER", discarded_at: expect.any(String) },
    ]);
    const replayed = await post(caller, `/v1/jobs/${id}/replay`, { reason: "it is mended" });
    expect([replayed.statusCode, replayed.json()]).toEqual([
      200,
      { id, state: "PENDING", available_at: expect.any(String), replay_count: 1 },
    ]);
    const job = (await get(caller, `/v1/jobs/${id}`)).json();
    expect(job.events.at(-1)).toMatchObject({
      from: "DEAD_LETTER",
      to: "PENDING",
      actor: "joe",
      reason: "it is mended",
    });
    for (const what of ["replay", "discard"]) {
      const refused = await post(caller, `/v1/jobs/${id}/${what}`, { reason: "once more" });
      expect([refused.statusCode, refused.json().code]).toEqual([409, "job_not_dead"]);
    }
  });

  test("a replay that a newer turn has made needless is 409, unless forced", async () => {
    const caller = await tenant();
    const turn = async (ago: number) => {
      const runId = await runs.add(caller.id, "mail");
      await database.superuser.query(
        "update app.job_runs set slot = extract(epoch from now())::bigint - $2 where id = $1",
        [runId, ago],
      );
      await runs.claim(caller.id, runId);
      return runId;
    };
    const old = await turn(7200);
    await runs.fail(caller.id, old, 1, "sqlstate_23505");
    await runs.complete(caller.id, await turn(3600), 1, {});
    const refused = await post(caller, `/v1/jobs/${old}/replay`, { reason: "once more" });
    expect([refused.statusCode, refused.json().code]).toEqual([409, "replay_superseded"]);
    const forced = await post(caller, `/v1/jobs/${old}/replay`, { reason: "once more", force: true });
    expect(forced.statusCode).toBe(200);
  });

  test.each(["cancel", "replay", "discard"])("%s asks for a reason, and for nothing else", async (what) => {
    const caller = await tenant();
    const id = await dead(caller);
    for (const body of [
      {},
      { reason: "no" },
      { reason: "x".repeat(501) },
      { reason: "good", actor: "ann" },
    ]) {
      const answer = await post(caller, `/v1/jobs/${id}/${what}`, body);
      expect([answer.statusCode, answer.json().code]).toEqual([400, "invalid_request"]);
    }
    expect((await post(caller, `/v1/jobs/x/${what}`, { reason: "good" })).statusCode).toBe(400);
    expect(await runs.row(id)).toMatchObject({ state: "DEAD_LETTER", discarded_at: null });
  });
});

test("another tenant's job is not there, word for word like one that never was; without a token nothing is", async () => {
  const [mine, theirs] = [await tenant(), await tenant()];
  const id = await dead(theirs);
  for (const [method, path, payload] of [
    ["GET", "", undefined],
    ["POST", "/cancel", { reason: "not mine", force: true }],
    ["POST", "/replay", { reason: "not mine", force: true }],
    ["POST", "/discard", { reason: "not mine" }],
  ] as const) {
    const ask = (of: string, headers: object) =>
      app.inject({
        method,
        url: `/v1/jobs/${of}${path}`,
        headers: { ...headers },
        ...(payload && { payload }),
      });
    const [foreign, absent] = [await ask(id, mine.headers), await ask(randomUUID(), mine.headers)];
    expect([foreign.statusCode, absent.statusCode]).toEqual([404, 404]);
    expect({ ...foreign.json(), instance: "" }).toEqual({ ...absent.json(), instance: "" });
    expect(foreign.json().code).toBe("job_run_not_found");
    expect((await ask(id, {})).statusCode).toBe(401);
  }
  expect((await get(mine, `/v1/jobs?before=${id}`)).json().jobs).toEqual([]);
  expect(await runs.row(id)).toMatchObject({ state: "DEAD_LETTER", discarded_at: null, replay_count: 0 });
});
