// Callers and Postgres are killed by SIGKILL while money moves: no hold without a row, none lost, and never over the limit.
import { type ChildProcess, spawn } from "node:child_process";
import { mkdtempSync, readFileSync } from "node:fs";
import { rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import pg from "pg";
import { afterAll, beforeAll, expect, test } from "vitest";
import { createLog } from "../../src/log.ts";
import { bootstrap, migrateDatabase, withClient } from "../../src/migrate.ts";
import { type EmbeddedServer, startPostgres } from "../../src/postgres.ts";
import { randomFrom } from "../../src/sample/random.ts";
import { inDatabase, TEST_PASSWORD, TEST_TICKET_KEY } from "../support/constants.ts";

const SEED = Number(process.env["SEED"] ?? Date.now() % 1_000_000);
const SECONDS = Number(process.env["MONEY_SECONDS"] ?? 8);
const DATABASE = "holdfast_killed";

const directory = mkdtempSync(join(tmpdir(), "holdfast-money-"));
// What was written survives the end of a process, if not of the machine.
const start = (port: number) =>
  startPostgres({ directory, port, settings: { fsync: "off", max_connections: "100" } });
let server: EmbeddedServer;
const callers: Caller[] = [];

beforeAll(async () => {
  console.info(`money killed: SEED=${SEED}`);
  server = await start(0);
  const logins = ["holdfast_admin", "holdfast_service", "holdfast_worker", "holdfast_ops"];
  await bootstrap(server.superuser, {
    database: DATABASE,
    passwords: Object.fromEntries(logins.map((login) => [login, TEST_PASSWORD])),
  });
  const log = createLog({ level: "warn" });
  await migrateDatabase(urlOf("holdfast_admin"), TEST_TICKET_KEY, log, { withCurrent: true });
  await ask("update app_private.ticket_keys set binding = 'none'");
}, 120_000);
afterAll(async () => {
  for (const caller of callers) caller.child.kill("SIGKILL");
  await server.stop();
  await rm(directory, { recursive: true, force: true });
});

const urlOf = (login: string) =>
  `postgresql://${login}:${TEST_PASSWORD}@${server.host}:${server.port}/${DATABASE}`;

// biome-ignore lint/suspicious/noExplicitAny: a test names the columns that it looks at
const ask = (text: string, values: unknown[] = []): Promise<any[]> =>
  withClient(
    inDatabase(server.superuser, DATABASE),
    async (client) => (await client.query(text, values)).rows,
  );

/** The postmaster ends at once, and its backends when they notice. */
async function killPostgres(): Promise<void> {
  const { host, port, dataDirectory } = server;
  const pid = Number(readFileSync(join(dataDirectory, "postmaster.pid"), "utf8").split("\n")[0]);
  process.kill(pid, "SIGKILL");
  await sleep(200);
  await server.stop().catch(() => {});
  server = await start(port);
  expect([server.host, server.port]).toEqual([host, port]);
}

/** A process that asks, and what it was told until it was killed. */
class Caller {
  readonly child: ChildProcess;
  private text = "";
  private readonly ended: Promise<unknown>;

  constructor(name: string, tenants: string[], from: number[]) {
    const given = { url: urlOf("holdfast_service"), tenants, name, seed: SEED, from };
    this.child = spawn(process.execPath, [join(import.meta.dirname, "caller.ts")], {
      env: { ...process.env, TEST_CALLER: JSON.stringify(given) },
      stdio: ["ignore", "pipe", "inherit"],
    });
    this.child.stdout!.on("data", (chunk) => {
      this.text += chunk;
    });
    this.ended = Promise.all([
      new Promise((resolve) => this.child.once("exit", resolve)),
      new Promise((resolve) => this.child.stdout!.once("close", resolve)),
    ]);
    callers.push(this);
  }

  async kill(): Promise<void> {
    this.child.kill("SIGKILL");
    await this.ended;
    expect(this.child.signalCode).toBe("SIGKILL");
  }

  /** Its whole lines: what the kill has cut off was not told. */
  lines(): string[][] {
    return this.text
      .split("\n")
      .slice(0, -1)
      .map((line) => line.split(" "));
  }

  /** For each of its loops the last call that it asked for: the next process asks for it again. */
  last(): number[] {
    const last: number[] = [];
    for (const [what, key] of this.lines()) {
      if (what !== "asks") continue;
      const [, at, n] = key!.split(".");
      last[Number(at)] = Number(n);
    }
    return Array.from(last, (n) => n ?? 0);
  }
}

async function addTenant(limitNanousd: number): Promise<string> {
  const [row] = await ask(
    `with tenant as (insert into app.tenants (name) values (gen_random_uuid()::text) returning tenant_id),
          budgets as (
            insert into app.llm_budgets (tenant_id, period, limit_nanousd)
            select t.tenant_id, p.period, $1 from tenant as t, (values ('month'), ('total')) as p (period))
     select tenant_id from tenant`,
    [limitNanousd],
  );
  return row.tenant_id;
}

const overLimit = () =>
  ask(
    `select p.*, b.limit_nanousd from app.llm_budget_periods as p
     join app.llm_budgets as b on b.tenant_id = p.tenant_id and b.id = p.budget_id
     where p.spent_nanousd + p.reserved_nanousd + p.presumed_nanousd > b.limit_nanousd`,
  );

const LIMIT = 5_000_000;

test(`${SECONDS} s of kills: the books are sound and know all that was answered`, {
  timeout: 300_000,
}, async () => {
  const { uniform } = randomFrom(SEED);
  // One whose money is soon gone, and one whose is not.
  const tenants = [await addTenant(LIMIT), await addTenant(1_000_000_000_000)];
  const crew = ["a", "b", "c"].map((name) => new Caller(name, tenants, []));
  const until = Date.now() + SECONDS * 1_000;
  let killed = 0;
  let crashed = 0;
  while (Date.now() < until || crashed < 2 || killed < 3) {
    await sleep(300 + uniform() * 900);
    if (uniform() < 0.3 || (Date.now() > until && crashed < 2)) {
      await killPostgres();
      crashed += 1;
    } else {
      const at = Math.floor(uniform() * crew.length);
      const caller = crew[at]!;
      await caller.kill();
      killed += 1;
      crew[at] = new Caller("abc"[at]!, tenants, caller.last());
    }
    expect(await ask("select * from app.llm_check()")).toEqual([]);
    expect(await overLimit()).toEqual([]);
  }
  for (const caller of crew) await caller.kill();
  // A statement of a caller that is gone ends by itself.
  await expect
    .poll(() => ask("select from pg_stat_activity where application_name = 'test_caller'"), {
      timeout: 20_000,
    })
    .toHaveLength(0);

  const told = callers.flatMap((caller) => caller.lines());
  const of = (what: string) => told.filter(([word]) => word === what);
  const rows = await ask(
    `select r.id, r.tenant_id, r.status, r.estimated_cost_nanousd as amount, r.settled_nanousd as settled, k.idempotency_key as key
     from app.llm_reservations as r
     full join app.llm_reservation_keys as k on k.tenant_id = r.tenant_id and k.reservation_id = r.id`,
  );
  const byId = new Map(rows.map((row) => [row.id, row]));
  for (const [, key, tenantId, id, amount] of of("held"))
    expect(byId.get(id), `held ${key}`).toMatchObject({ key, tenant_id: tenantId, amount });
  for (const [, key, , id, cost] of of("settled"))
    expect(byId.get(id), `settled ${key}`).toMatchObject({ status: "APPLIED", settled: cost });
  for (const [, key, , id] of of("released"))
    expect(byId.get(id), `released ${key}`).toMatchObject({ status: "RELEASED", settled: "0" });
  // Every key has its hold and every hold its key, once for each call that was asked for, by however many processes.
  expect(rows.filter(({ key, id }) => key === null || id === null)).toEqual([]);
  expect(new Set(rows.map(({ key }) => key)).size).toBe(rows.length);
  expect(new Set(told.map(([word]) => word))).toEqual(
    new Set(["asks", "held", "settled", "released", "refused"]),
  );
  expect(of("refused").every(([, , code]) => code === "budget_exceeded")).toBe(true);
  for (const what of ["settled", "released", "refused"]) expect(of(what).length, what).toBeGreaterThan(10);
  expect(of("held").some((words) => words[5] === "again")).toBe(true);

  // What nobody settled lapses, and frees nothing by that.
  const open = rows.filter(({ status }) => status === "RESERVED").length;
  expect(open).toBeGreaterThan(0);
  const counted = () =>
    ask(
      "select sum(spent_nanousd + reserved_nanousd + presumed_nanousd) as sum, sum(reserved_nanousd) as reserved from app.llm_budget_periods",
    );
  const [before] = await counted();
  await ask(
    "update app.llm_reservations set expires_at = now() - interval '1 hour' where status = 'RESERVED'",
  );
  const client = new pg.Client(inDatabase(server.superuser, DATABASE));
  await client.connect();
  expect((await client.query("select * from app.llm_expire()")).rows).toHaveLength(open);
  await client.end();
  const [after] = await counted();
  expect(after).toEqual({ sum: before.sum, reserved: "0" });
  expect(await ask("select * from app.llm_check()")).toEqual([]);
  expect(await overLimit()).toEqual([]);
  console.info(
    `money killed: ${killed} callers, Postgres ${crashed} times, ${rows.length} holds, ${open} left open`,
  );
});
