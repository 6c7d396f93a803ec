// What keys, errors, locks and answers tell of another tenant: nothing. Errors are compared in all of their fields.
import { randomUUID } from "node:crypto";
import type pg from "pg";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { ERRORS } from "../../src/errors.ts";
import type { Row } from "../support/contract.ts";
import { costsOf, usage } from "../support/costs.ts";
import { testDatabase } from "../support/database.ts";
import { type AttackScene, attackScene } from "./scene.ts";
import { BY_ID, BY_ID_IN_A_LIST, BY_KEY, NAMES_NOTHING } from "./support/calls.ts";
import { callOf, contractFunctions } from "./support/contract_functions.ts";
import { errorBytes, errorFields } from "./support/errors.ts";
import { openSession, outcomeOf, type Session } from "./support/session.ts";
import { copiesOf, insertText, type KeyedTable, keyedTables } from "./support/tables.ts";

const database = testDatabase();
let scene: AttackScene;
let mine = "";
let foreign = "";
/** A tenant without a row of its own, so that whatever collides collides with somebody else. */
let blank = "";
/** The worker may execute every function of the contract. */
let worker: Session;
/** The owner of the tables: what a function of the contract acts as. */
let owner: Session;
let tables: KeyedTable[];
let before: Record<string, string>;

beforeAll(async () => {
  scene = await attackScene(database);
  mine = scene.mine.tenantId;
  foreign = scene.foreign.tenantId;
  worker = await openSession({ connectionString: database.url("holdfast_worker") });
  owner = await openSession({ connectionString: database.url("holdfast_admin") });
  await owner.ask("set role holdfast_owner");
  for (const session of [worker, owner]) await session.ask("set lock_timeout = '1s'");
  // What the tasks alone call, with the other login: here it makes no difference who asks.
  await owner.ask(
    `grant execute on function app.analysis_candidates, app.findings_detect, app.cost_source_imported,
       app.cost_sources_list to holdfast_worker`,
  );
  blank = (await database.addTenant()).tenantId;
  await database.superuser.query("delete from app.llm_budgets where tenant_id = $1", [blank]);
  tables = await keyedTables(database);
  before = await scene.foreignFingerprints();
});

afterAll(async () => {
  try {
    expect(await scene.foreignFingerprints()).toEqual(before);
    for (const session of [worker, owner]) expect(scene.leak(session.heard.join("\n"))).toBeUndefined();
  } finally {
    await Promise.all([worker.end(), owner.end()]);
  }
});

/** Work inside a transaction of a tenant, which is rolled back. */
async function entered<T>(session: Session, tenantId: string, work: () => Promise<T>): Promise<T> {
  await session.ask("begin");
  try {
    const { error } = await session.ask("select app.enter($1, $2)", [tenantId, database.ticket(tenantId)]);
    expect(error).toBeUndefined();
    return await work();
  } finally {
    await session.ask("rollback");
  }
}

/** A statement that must be refused, inside a transaction that goes on: its error. */
async function refused(session: Session, text: string, values: unknown[]): Promise<pg.DatabaseError> {
  await session.ask("savepoint before");
  const { error, rows } = await session.ask(text, values);
  await session.ask("rollback to before");
  return error ?? expect.fail(`accepted: ${text} ${JSON.stringify(values)} ${JSON.stringify(rows)}`);
}

/** The same id but for its last digits: an id that is not there, of the same month. */
const absent = (id: string) => id.slice(0, -12) + randomUUID().slice(-12);

/** Another value of the same type. */
function another(value: unknown): unknown {
  if (typeof value !== "string") return Number(value) + 1_000_000;
  if (/^[[(].*[\])]$/.test(value)) return "[2031-03-07,2031-03-08)";
  if (/^\d{4}-\d{2}-\d{2}/.test(value)) return `2031${value.slice(4)}`;
  return /^[0-9a-f]{8}-/.test(value) ? absent(value) : `${value} x`;
}

describe("keys, for whoever writes as a function of the contract does", () => {
  /** Without the triggers, so that the order of the tables does not matter and only keys can refuse. */
  async function asOwnerOfBlank<T>(
    work: (client: pg.PoolClient) => Promise<T>,
    end = "rollback",
  ): Promise<T> {
    const client = await database.superuser.connect();
    try {
      await client.query(
        "begin; set local session_replication_role = replica; set local role holdfast_owner",
      );
      await client.query("select app.enter($1, $2)", [blank, database.ticket(blank)]);
      return await work(client);
    } finally {
      await client.query(end);
      client.release(true);
    }
  }

  const copies = (table: KeyedTable) => copiesOf(database, table, foreign, { tenant_id: blank });
  const withKeys = () => tables.filter(({ name }) => name !== "app.tenants");

  test("a row whose every key but the tenant is another's is taken, with and without on conflict", async () => {
    expect(withKeys().length).toBeGreaterThan(15);
    for (const rest of ["", "on conflict do nothing"]) {
      await asOwnerOfBlank(async (client) => {
        for (const table of withKeys()) {
          const rows = await copies(table);
          expect(table.keys.length, `${table.name} has a key`).toBeGreaterThan(0);
          expect(rows.length, table.name).toBeGreaterThan(0);
          const { rowCount } = await client.query(insertText(table, rest), [JSON.stringify(rows)]);
          expect(rowCount, table.name).toBe(rows.length);
        }
      });
    }
  });

  test("the names of tenants are the one key that all share, and no function but those of people touches it", async () => {
    const [table] = tables.filter(({ name }) => name === "app.tenants");
    expect(table!.keys.map((key) => key.constraint).sort()).toEqual(["tenants_name_once", "tenants_pkey"]);
    const { rows } = await database.superuser.query(
      `select p.oid::regproc::text as name from pg_proc as p
       where p.prosrc ~ '(insert into|update|merge into) app.tenants' order by 1`,
    );
    // These set a tier, a plan, a pause, a moment of activity.
    expect(rows.map(({ name }) => name).filter((name) => !name.startsWith("ops."))).toEqual([
      "app.tiers_derive",
      "app_private.job_pause_set",
      "app_private.tenant_active",
      "app_private.tenant_change",
    ]);
    const { rows: naming } = await database.superuser.query(
      `select p.oid::regproc::text as name from pg_proc as p
       where p.prosrc ~ '(insert|merge) into app.tenants|(set|,)\\s+name =' order by 1`,
    );
    expect(naming.filter(({ name }) => !name.startsWith("ops."))).toEqual([]);
  });

  test("a reference to another's row is refused like one to no row", async () => {
    let tried = 0;
    await entered(owner, blank, async () => {
      for (const table of tables) {
        const [row] = await copies(table);
        for (const { columns, constraint } of table.foreignKeys) {
          if (columns.length === 1) continue; // the tenant itself, or what all share
          expect(columns[0], constraint).toBe("tenant_id");
          const id = String(row![columns[1]!]);
          const other = absent(id);
          const errors = [];
          for (const [given, named] of [
            [id, id],
            [other, other],
          ] as const) {
            const values = [JSON.stringify([{ ...row, [columns[1]!]: named }])];
            const error = await refused(owner, insertText(table), values);
            expect(error, constraint).toMatchObject({ code: "23503", constraint });
            errors.push(errorBytes(error, [given]));
          }
          expect(errors[0], constraint).toBe(errors[1]);
          tried += 1;
        }
      }
    });
    expect(tried).toBeGreaterThanOrEqual(5);
  });

  test("a row under another's tenant is refused before anything is compared with it", async () => {
    await entered(owner, blank, async () => {
      for (const table of tables) {
        const [row] = await copiesOf(database, table, foreign, {});
        for (const key of table.keys) {
          const target = `on conflict (${key.columns.join(", ")})`;
          const said = new Set<string>();
          const inferred = [
            `${target} do nothing`,
            `${target} do update set tenant_id = excluded.tenant_id`,
            `${target} do update set tenant_id = excluded.tenant_id where false`,
            `${target} do update set tenant_id = excluded.tenant_id where ('leak:' || t::text)::integer > 0`,
            `${target} do update set tenant_id = excluded.tenant_id where t::text like '%a%'`,
          ];
          const named = [`on conflict on constraint ${key.constraint} do nothing`];
          for (const rest of ["", "on conflict do nothing", ...(key.excludes ? named : inferred)]) {
            for (const there of [true, false]) {
              const last = key.columns.at(-1)!;
              const values = [JSON.stringify([there ? row : { ...row, [last]: another(row![last]) }])];
              const error = await refused(owner, insertText(table, rest), values);
              expect(outcomeOf({ error, rows: [] }), `${key.index} ${rest}`).toBe(
                "42501 ExecWithCheckOptions",
              );
              said.add(errorBytes(error));
            }
          }
          expect([...said], key.index).toHaveLength(1);
        }
      }
    });
  });

  test("what is deleted takes no row of another with it", async () => {
    await asOwnerOfBlank(async (client) => {
      for (const table of withKeys()) {
        await client.query(insertText(table), [JSON.stringify(await copies(table))]);
      }
    }, "commit");
    await owner.ask("begin");
    await owner.ask("select app.enter($1, $2)", [blank, database.ticket(blank)]);
    const left = new Set(withKeys().map(({ name }) => name));
    for (let round = 0; round < 10 && left.size > 0; round += 1) {
      for (const name of left) {
        await owner.ask("savepoint before");
        const { error } = await owner.ask(`delete from ${name}`);
        if (error === undefined) left.delete(name);
        else await owner.ask("rollback to before");
      }
    }
    expect([...left]).toEqual([]);
    await owner.ask("commit");
    expect(await scene.foreignFingerprints()).toEqual(before);
  });
});

describe("an object that is named", () => {
  test("every argument that could name one has a case here", async () => {
    const couldName = ({ name, type }: { name: string; type: string }) =>
      /(_id|_ids|_key|_keys|fingerprint|lease)$/.test(name) || /^(uuid|json|jsonb)$|\[\]$/.test(type);
    const found = (await contractFunctions(database)).flatMap((each) =>
      each.arguments.filter(couldName).map((argument) => `${each.name} ${argument.name}`),
    );
    const cases = [...BY_ID, ...BY_ID_IN_A_LIST, ...BY_KEY].map(({ argument }) => argument);
    const all = new Set([...cases, ...NAMES_NOTHING, "app.job_complete result"]);
    expect(found.sort()).toEqual([...all].sort());
  });

  test.each(BY_ID)("$argument: another's is refused by name, like one that is not there", async (naming) => {
    const ids = scene.ids.foreign[naming.ids]!;
    expect(ids.length).toBeGreaterThan(0);
    const status = Object.values(ERRORS).find(
      (each: { sqlstate?: string; status: number }) => each.sqlstate === naming.notFound,
    )?.status;
    expect(status).toBe(404);
    for (const id of ids) {
      const errors = [];
      for (const given of [id, absent(id)]) {
        const { error, rows } = await worker.ask(naming.text, [mine, database.ticket(mine), given]);
        expect(error, `accepted ${given}: ${JSON.stringify(rows)}`).toMatchObject({ code: naming.notFound });
        errors.push(errorBytes(error, [given]));
      }
      expect(errors[0]).toBe(errors[1]);
    }
  });

  test.each(BY_ID_IN_A_LIST)("$argument: another's is refused by name in its row, alike", async (naming) => {
    const ids = scene.ids.foreign[naming.ids]!;
    expect(ids.length).toBeGreaterThan(0);
    for (const id of ids) {
      const answers = [];
      for (const given of [id, absent(id)]) {
        const { error, rows } = await worker.ask(naming.text, [mine, database.ticket(mine), given]);
        expect(error).toBeUndefined();
        expect(rows, given).toMatchObject([{ refusal: naming.refusal }]);
        answers.push(JSON.stringify(rows).replaceAll(given, "it"));
      }
      expect(answers[0]).toBe(answers[1]);
    }
  });

  test("app.job_complete result: a finding of another is unknown, like one that is not there", async () => {
    const ask = async (text: string, ...values: unknown[]) =>
      (await worker.ask(`select * from ${text}`, [mine, database.ticket(mine), ...values])).rows[0] as Row;
    const requested = await ask("app.analysis_request($1, $2, 'offline', 'offline-analyst', 10, 10)");
    await database.superuser.query("select app.job_claim('w', array[$1::uuid], array[$2::uuid])", [
      mine,
      requested["run_id"],
    ]);
    for (const id of scene.ids.foreign["app.findings.id"]!) {
      const errors = [];
      for (const given of [id, absent(id)]) {
        const item = {
          finding_id: given,
          rank: 1,
          headline: "x",
          why: "x",
          caveats: [],
          remediation_code: "no_action",
        };
        const { error } = await worker.ask("select app.job_complete($1, $2, $3, 1, $4)", [
          mine,
          database.ticket(mine),
          requested["run_id"],
          { narrated_by: "model", summary: "x", items: [item] },
        ]);
        expect(error).toMatchObject({ code: "NA102", detail: expect.stringContaining("unknown_finding") });
        errors.push(errorBytes(error, [given]));
      }
      expect(errors[0]).toBe(errors[1]);
    }
  });

  test.each(BY_KEY)("$argument: another's key is as good as a new one", async ({ text }) => {
    const { rows: keys } = await database.superuser.query<{ key: string }>(
      `select idempotency_key as key from app.job_run_keys where tenant_id = $1
       union all select idempotency_key from app.llm_reservation_keys where tenant_id = $1`,
      [foreign],
    );
    expect(keys.length).toBeGreaterThan(3);
    const shape = async (key: string) => {
      const { rows, error } = await worker.ask(text, [mine, database.ticket(mine), key]);
      expect(error).toBeUndefined();
      const [row] = rows as Row[];
      return {
        ...row,
        id: typeof row!["id"],
        run_id: typeof row!["run_id"],
        created_at: 0,
        expires_at: 0,
        available_at: 0,
      };
    };
    // Undone for each function: they share the keys of a tenant.
    await worker.ask("begin");
    try {
      const fresh = await shape(randomUUID());
      expect(fresh).toMatchObject({ replayed: false });
      for (const { key } of keys) {
        expect(await shape(key)).toEqual(fresh);
        expect(await shape(key)).toEqual({ ...fresh, replayed: true });
      }
    } finally {
      await worker.ask("rollback");
    }
  });
});

describe("a tenant that was not entered", () => {
  test("is refused by every function, whoever it is, and nothing in the refusal tells who it is", async () => {
    const functions = await contractFunctions(database);
    expect(functions.length).toBeGreaterThan(15);
    for (const each of functions) {
      const errors = new Set<string>();
      for (const tenantId of [foreign, randomUUID(), null]) {
        const { error } = await worker.ask(callOf(each), [tenantId, database.ticket(mine)]);
        expect(error, each.name).toMatchObject({ code: "RL101", message: "rls_enforcement_failed" });
        errors.add(errorBytes(error));
      }
      expect([...errors], each.name).toHaveLength(1);
    }
  });

  test("is refused in a transaction that has entered, with a ticket of its own too", async () => {
    for (const each of await contractFunctions(database)) {
      await entered(worker, mine, async () => {
        for (const ticket of [database.ticket(mine), database.ticket(foreign)]) {
          const error = await refused(worker, callOf(each), [foreign, ticket]);
          expect(error, each.name).toMatchObject({ code: "RL101" });
          expect(scene.leak(JSON.stringify(errorFields(error)))).toBeUndefined();
        }
      });
    }
  });
});

describe("locks", () => {
  test("no call waits for a row of another that somebody holds", async () => {
    const holder = await database.superuser.connect();
    try {
      await holder.query("begin");
      for (const { name } of tables) {
        const { rowCount } = await holder.query(`select from ${name} where tenant_id = $1 for update`, [
          foreign,
        ]);
        expect(rowCount, name).toBeGreaterThan(0);
      }
      for (const naming of BY_ID) {
        const id = scene.ids.foreign[naming.ids]![0];
        const { error } = await worker.ask(naming.text, [mine, database.ticket(mine), id]);
        expect(error, naming.argument).toMatchObject({ code: naming.notFound });
      }
    } finally {
      await holder.query("rollback");
      holder.release();
    }
  });

  test("no call waits for another that works under the same names", async () => {
    const other = await openSession({ connectionString: database.url("holdfast_worker") });
    const lines = await costsOf(database).literals([usage("2026-04-02", 1)]);
    const works = async (session: Session, tenantId: string) => {
      const ask = async (text: string, ...values: unknown[]) => {
        const { rows, error } = await session.ask(text, [tenantId, database.ticket(tenantId), ...values]);
        expect(error, text).toBeUndefined();
        return rows[0] as Row;
      };
      const { id } = await ask("select app.cost_import_start($1, $2, 'same', 'same.csv', '1.0') as id");
      await ask("select app.cost_import_add($1, $2, $3, $4)", id, lines);
      await ask("select app.cost_import_roll_up($1, $2, $3)", id);
      await ask("select * from app.cost_import_publish($1, $2, $3)", id);
      for (const { argument, text } of BY_KEY) await ask(text, `the same key of ${argument}`);
    };
    try {
      await other.ask("begin");
      await works(other, foreign);
      await works(worker, mine);
    } finally {
      await other.ask("rollback");
      await other.end();
    }
  });
});
