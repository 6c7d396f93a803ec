import { randomUUID } from "node:crypto";
import * as fs from "node:fs";
import { hostname, tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import pino from "pino";
import { afterAll, afterEach, beforeEach, describe, expect, test, vi } from "vitest";
import { askText, type Hold, reserveMany, settle } from "../../src/budgets.ts";
import type { Db } from "../../src/db.ts";
import { type Spool, startSpool } from "../../src/llm/spool.ts";
import { budgetedFetch } from "../../src/llm.ts";
import {
  anotherDb,
  completion,
  database,
  endScenes,
  json,
  type Line,
  type Scene,
  scene,
  sql,
} from "../support/llm_scene.ts";
import { endProcesses, run } from "../support/process.ts";

/** What happens between the opening of a file that is added to and the writing, once each. */
const onOpened = vi.hoisted(() => [] as (() => Promise<void>)[]);
vi.mock("node:fs/promises", async (original) => {
  const real = await original<typeof import("node:fs/promises")>();
  const open: typeof real.open = async (path, flags, mode) => {
    const file = await real.open(path, flags, mode);
    if (flags === "a") await onOpened.shift()?.();
    return file;
  };
  return { ...real, open };
});

const used = { inputTokens: 100, outputTokens: 20, cachedInputTokens: 0 };
const NEVER_MS = 3_600_000;

let directory: string;
const spools: Spool[] = [];
const away: Db[] = [];
beforeEach(() => {
  directory = fs.mkdtempSync(join(tmpdir(), "holdfast-spool-"));
});
afterEach(async () => {
  await Promise.all(spools.splice(0).map((spool) => spool.stop()));
  await endProcesses();
  fs.rmSync(directory, { recursive: true, force: true });
  await endScenes();
});
afterAll(() => Promise.all(away.map(({ pool }) => pool.end().catch(() => {}))));

/** A spool of the folder, which replays when it is told to. */
function spoolOf(db: Db, everyMs = NEVER_MS, folder = directory) {
  const lines: Line[] = [];
  const log = pino({ level: "info" }, { write: (line: string) => lines.push(JSON.parse(line)) });
  const spool = startSpool({ directory: folder, db, log, everyMs });
  spools.push(spool);
  return { spool, lines };
}

/** A database that is away: its pool has ended. */
async function lostDb(): Promise<Db> {
  const db = anotherDb();
  await db.pool.end();
  return db;
}

async function holds(count: number): Promise<{ tenantId: string; ids: string[] }> {
  const { tenantId } = await database.addTenant({ limitUsd: "100" });
  await database.ops.query("select ops.llm_price_set('p', 'm', 1, 2, reason => 'test')").catch(() => {}); // it is there
  const asks = Array.from({ length: count }, () =>
    askText({
      idempotencyKey: randomUUID(),
      provider: "p",
      model: "m",
      inputTokensBound: 500,
      maxOutputTokens: 250,
    }),
  );
  const held = await reserveMany(database.worker, tenantId, asks);
  return { tenantId, ids: held.map((hold) => (hold as Hold).id) };
}

async function statuses(tenantId: string): Promise<Record<string, number>> {
  const rows = await sql(
    "select status, count(*)::int as n from app.llm_reservations where tenant_id = $1 group by 1",
    [tenantId],
  );
  return Object.fromEntries(rows.map(({ status, n }) => [status, n]));
}

const files = () => fs.readdirSync(directory);
const contents = () => files().map((name) => fs.readFileSync(join(directory, name), "utf8"));

function send({ llm, tenantId, attempt, provider }: Scene): Promise<Response> {
  const messages = [{ role: "user", content: "Word these findings." }];
  const body = JSON.stringify({ model: "small", max_tokens: 50, messages });
  return budgetedFetch(
    llm,
    tenantId,
    attempt,
  )(`${provider.baseUrl}/chat/completions`, { method: "POST", body });
}

describe("a call whose database goes away before its answer", () => {
  test("is answered, its usage kept on the disk, and settled when the database is back", async () => {
    const lost = anotherDb();
    const { spool } = spoolOf(lost);
    const world = await scene(
      async (response) => {
        await lost.pool.end();
        json(response, completion("words"));
      },
      { llm: { db: lost, spool } },
    );
    expect((await send(world)).status).toBe(200);
    const { tenantId } = world;
    expect(await world.holds()).toMatchObject([{ status: "RESERVED" }]);
    expect(world.lines.at(-1)).toMatchObject({ level: 40, msg: "llm_settle_spooled", input_tokens: 100 });

    const [{ id }] = await sql("select id from app.llm_reservations where tenant_id = $1", [tenantId]);
    const [text] = contents();
    expect(JSON.parse(text!)).toEqual({
      tenantId,
      reservationId: id,
      usage: expect.objectContaining(used),
      facts: {
        providerRequestId: "chatcmpl-1",
        responseModel: "small-2026-01-01",
        finishReason: "stop",
        simulated: false,
      },
    });
    expect(text).not.toMatch(/findings|words|sk-secret/);
    expect(fs.statSync(join(directory, files()[0]!)).mode & 0o777).toBe(0o600);

    const long = Date.now() / 1000 - 3_600;
    fs.utimesSync(join(directory, files()[0]!), long, long);
    await spool.replay(); // still away
    expect(contents()).toEqual([text]);
    // No other host takes it for left behind.
    expect(Date.now() - fs.statSync(join(directory, files()[0]!)).mtimeMs).toBeLessThan(60_000);
    const back = spoolOf(database.worker);
    await Promise.all([back.spool.replay(), back.spool.replay()]); // one after the other
    expect(await world.holds()).toMatchObject([{ status: "APPLIED" }]);
    expect(await world.budget()).toMatchObject({ spent: 140_000, reserved: 0 });
    expect(back.lines).toMatchObject([
      { msg: "llm_settled", tenant_id: tenantId, reservation_id: id, cost_nanousd: "140000", spooled: true },
    ]);
    expect(files()).toEqual([]);
  });

  test("is answered, and said to be lost, when the folder cannot be written", async () => {
    const file = join(directory, "a file");
    fs.writeFileSync(file, "");
    const lost = anotherDb();
    const { spool, lines } = spoolOf(lost, NEVER_MS, join(file, "spool"));
    const world = await scene(
      async (response) => {
        await lost.pool.end();
        json(response, completion("words"));
      },
      { llm: { db: lost, spool } },
    );
    expect((await send(world)).status).toBe(200);
    expect(world.lines.map(({ msg }) => msg).slice(-2)).toEqual(["llm_spool_failed", "llm_close_failed"]);
    expect(world.lines.at(-1)).toMatchObject({ level: 50, input_tokens: 100, output_tokens: 20 });
    // It was said at the start, and once.
    await spool.replay();
    expect(lines.map(({ msg }) => msg)).toEqual(["llm_spool_unusable"]);
    fs.rmSync(file);
  });

  test("is not kept when its settlement was refused for good", async () => {
    const { spool } = spoolOf(database.worker);
    const world = await scene(
      async (response) => {
        const [{ id }] = await sql("select id from app.llm_reservations where tenant_id = $1", [
          world.tenantId,
        ]);
        await settle(database.worker, world.tenantId, id, { ...used, outputTokens: 1 });
        json(response, completion("words"));
      },
      { llm: { spool } },
    );
    expect((await send(world)).status).toBe(200);
    expect(world.lines.at(-1)).toMatchObject({
      msg: "llm_close_failed",
      err: { code: "reservation_closed" },
    });
    expect(files()).toEqual([]);
  });
});

test("what a killed process has kept is settled by the next one, each once", async () => {
  const { tenantId, ids } = await holds(400);
  const child = run("node", ["test/support/spool_child.ts"], {
    TEST_SPOOL: JSON.stringify({ directory, tenantId, ids }),
  });
  await child.seen(new RegExp(ids[150]!));
  // It lives: what it has kept is its own.
  const { spool } = spoolOf(database.worker);
  await spool.replay();
  expect(await statuses(tenantId)).toEqual({ RESERVED: 400 });
  process.kill(child.pid, "SIGKILL");
  await child.ended;
  const kept = child.stdout().trimEnd().split("\n");
  expect(kept.length).toBeGreaterThan(150);
  expect(kept.length).toBeLessThan(400);

  await spool.replay();
  const rows = await sql("select id from app.llm_reservations where tenant_id = $1 and status = 'APPLIED'", [
    tenantId,
  ]);
  const applied = new Set(rows.map(({ id }) => id));
  // The line that was being written may be there without having been told of.
  expect(kept.filter((id) => !applied.has(id))).toEqual([]);
  expect(applied.size).toBeLessThanOrEqual(kept.length + 1);
  const [usage] = await sql("select count(*)::int as n from app.llm_usage where tenant_id = $1", [tenantId]);
  expect(usage.n).toBe(applied.size);
  expect(files()).toEqual([]);
});

test("nothing is lost between one that adds and others that replay", async () => {
  const { tenantId, ids } = await holds(200);
  const adding = spoolOf(database.worker, 1).spool;
  spoolOf(database.worker, 1);
  await Promise.all(
    ids.map(async (reservationId, place) => {
      await sleep(place);
      await adding.add(tenantId, { reservationId, usage: used });
    }),
  );
  await adding.replay();
  await expect.poll(() => statuses(tenantId)).toEqual({ APPLIED: 200 });
  await expect.poll(files).toEqual([]);
});

test("who adds to a file that was read meanwhile adds again", async () => {
  const { tenantId, ids } = await holds(1);
  const [{ spool }, other] = [spoolOf(database.worker), spoolOf(database.worker)];
  await Promise.all([spool.replay(), other.spool.replay()]);
  onOpened.push(() => other.spool.replay());
  await spool.add(tenantId, { reservationId: ids[0]!, usage: used });
  expect(onOpened).toEqual([]);
  expect(contents().join("")).toContain(ids[0]);
  await other.spool.replay();
  expect(await statuses(tenantId)).toEqual({ APPLIED: 1 });
});

test("what can be settled is; what is refused for good or cannot be read is told, and does not come again", async () => {
  const { tenantId, ids } = await holds(2);
  const other = await holds(1);
  const { spool, lines } = spoolOf(database.worker);
  await spool.replay();
  await spool.add(tenantId, { reservationId: ids[0]!, usage: used });
  await spool.add(tenantId, { reservationId: other.ids[0]!, usage: used });
  const name = files()[0]!;
  fs.appendFileSync(join(directory, name), '{"tenantId":"cut of');
  await spool.add(tenantId, { reservationId: ids[1]!, usage: used });
  await spool.replay();
  expect(await statuses(tenantId)).toEqual({ APPLIED: 2 });
  expect(lines.map(({ msg }) => msg).sort()).toEqual([
    "llm_close_failed",
    "llm_settled",
    "llm_settled",
    "llm_spool_unreadable",
  ]);
  expect(lines.find(({ msg }) => msg === "llm_spool_unreadable")).toMatchObject({ lines: 1 });
  expect(files()).toEqual([]);
});

test("what is left is kept alone, and tried again by itself", async () => {
  const { tenantId, ids } = await holds(2);
  const locked = await holds(1);
  const db: Db = { ...database.worker, budgets: { lockTimeoutMs: 50 } };
  const holder = await database.superuser.connect();
  const { spool, lines } = spoolOf(db);
  await spool.replay(); // its first, which must not meet what is added
  try {
    await holder.query("begin");
    await holder.query("select from app.llm_budget_periods where tenant_id = $1 for update", [
      locked.tenantId,
    ]);
    for (const reservationId of ids) await spool.add(tenantId, { reservationId, usage: used });
    await spool.add(locked.tenantId, { reservationId: locked.ids[0]!, usage: used });
    await spool.replay();
    expect(await statuses(tenantId)).toEqual({ APPLIED: 2 });
    expect(contents().join("").trim().split("\n")).toHaveLength(1);
    expect(contents().join("")).toContain(locked.ids[0]);
    await spool.replay();
    // What waits is told once.
    const waits = lines.filter(({ msg }) => msg === "llm_spool_waits");
    expect(waits).toMatchObject([{ level: 40, settlements: 1, err: { code: "budget_busy" } }]);
  } finally {
    await holder.query("rollback");
    holder.release();
  }
  spoolOf(db, 20);
  await expect.poll(() => statuses(locked.tenantId)).toEqual({ APPLIED: 1 });
  await expect.poll(files).toEqual([]);
});

test("a file is taken when its process has ended, or another host has not touched it for ten minutes", async () => {
  const { tenantId, ids } = await holds(5);
  const keep = (name: string, id: string, minutes = 0) => {
    const path = join(directory, name);
    fs.writeFileSync(path, JSON.stringify({ tenantId, reservationId: id, usage: used, facts: {} }));
    const at = Date.now() / 1000 - minutes * 60;
    fs.utimesSync(path, at, at);
  };
  const here = hostname();
  const stat = fs.readFileSync(`/proc/${process.ppid}/stat`, "latin1");
  const parentStart = stat.slice(stat.lastIndexOf(")") + 2).split(" ")[19];
  keep(`${here}.${process.ppid}.${parentStart}.open`, ids[0]!, 60); // it lives
  keep(`${here}.${process.ppid}.1.open`, ids[1]!); // its pid is another's by now
  keep("elsewhere.net.17.4.open", ids[2]!, 9);
  keep(`elsewhere.net.17.4.${randomUUID()}.taken`, ids[3]!, 11);
  keep("not.ours", ids[4]!, 60);
  const { spool } = spoolOf(database.worker);
  await spool.replay();
  const rows = await sql("select id, status from app.llm_reservations where tenant_id = $1 order by id", [
    tenantId,
  ]);
  const applied = rows.filter(({ status }) => status === "APPLIED").map(({ id }) => id);
  expect(applied).toEqual([ids[1], ids[3]].sort());
  expect(files()).toHaveLength(3);
});

test("a stop ends the replays, and does not wait for a database that is away", async () => {
  const { spool } = spoolOf(await lostDb(), 5);
  const { tenantId, ids } = await holds(1);
  await spool.add(tenantId, { reservationId: ids[0]!, usage: used });
  const began = performance.now();
  await spool.stop();
  expect(performance.now() - began).toBeLessThan(2_500);
  // It may be there twice: added again, since its file was taken while it was added.
  expect(contents().join("")).toContain(ids[0]);
});
