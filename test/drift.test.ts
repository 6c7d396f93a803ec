// sql/ is the database as it is, migrations/ carries an old one there: both roads must end at the same place.
import { randomUUID } from "node:crypto";
import { readFile } from "node:fs/promises";
import { run } from "graphile-migrate";
import type pg from "pg";
import { afterAll, beforeAll, describe, expect, inject, test } from "vitest";
import { createPool } from "../src/db.ts";
import { asOwner, bootstrap, migrateSettings, projectFile, withClient } from "../src/migrate.ts";
import { inDatabase, TEST_PASSWORD } from "./support/constants.ts";
import { testDatabase, whenAlone } from "./support/database.ts";
import { rolledBack } from "./support/rolled_back.ts";

const server = inject("server");
const migrated = testDatabase();
const name = `holdfast_sql_${randomUUID().replaceAll("-", "").slice(0, 12)}`;
/** The administrator in the database that sql/index.sql builds. */
let built: pg.Pool;

beforeAll(async () => {
  await bootstrap(server.administrator, { database: name, passwords: {} });
  built = createPool({ ...inDatabase(server.administrator, name), max: 2, application_name: "test" });
  await build();
});
afterAll(async () => {
  await built.end();
  // What is cut in the middle of its end would be an error that nobody listens for.
  await withClient(inDatabase(server.administrator, name), whenAlone);
  await withClient(server.administrator, (client) => client.query(`drop database ${name} with (force)`));
});

/** Runs sql/index.sql with its includes, as the owner and in one transaction, as a migration would. */
async function build(): Promise<void> {
  const url = asOwner(`postgresql://holdfast_admin:${TEST_PASSWORD}@${server.host}:${server.port}/${name}`);
  const index = await readFile(projectFile("sql/index.sql"), "utf8");
  await run(migrateSettings(url), `begin;\n${index}\ncommit;\n`, projectFile("sql/index.sql"));
}

type Snapshot = Map<string, string>;

async function snapshot(database: pg.Pool | pg.ClientBase): Promise<Snapshot> {
  const { rows } = await database.query("select kind, name, definition from app_private.schema_snapshot");
  const found = new Map<string, string>(rows.map((row) => [`${row.kind} ${row.name}`, row.definition]));
  expect(found.size, "every object has a name of its own").toBe(rows.length);
  return found;
}

/** One line for each object that differs, saying how; none when the two are equal. */
function differences(sql: Snapshot, migrations: Snapshot): string[] {
  const names = [...new Set([...sql.keys(), ...migrations.keys()])].sort();
  return names.flatMap((object) => {
    const [inSql, inMigrations] = [sql.get(object), migrations.get(object)];
    if (inSql === inMigrations) return [];
    if (inMigrations === undefined) return [`${object}: in sql/ alone`];
    if (inSql === undefined) return [`${object}: in migrations/ alone`];
    return [
      `${object}: sql/ says "${excerpt(inSql, inMigrations)}", migrations/ "${excerpt(inMigrations, inSql)}"`,
    ];
  });
}

/** The text from a little before the first place where it differs from the other. */
function excerpt(text: string, other: string): string {
  let at = 0;
  while (at < text.length && text[at] === other[at]) at += 1;
  return text.slice(Math.max(0, at - 30), at + 60).replaceAll(/\s+/g, " ");
}

const SEEDS = ["tiers", "schedules", "job_kinds", "job_run_transitions", "llm_prices"];

/** The rows that the files bring, without the moments at which they came. */
async function seeds(database: pg.Pool): Promise<string[]> {
  const all = await Promise.all(
    SEEDS.map((table) =>
      database.query<{ row: string }>(
        `select '${table} ' || (to_jsonb(t) - array['known_at', 'next_run_at'])::text as row from app.${table} as t`,
      ),
    ),
  );
  return all.flatMap(({ rows }) => rows.map(({ row }) => row)).sort();
}

test("sql/index.sql on an empty database, and the migrations, build the same", async () => {
  const fromSql = await snapshot(built);
  expect(fromSql.size).toBeGreaterThan(800);
  expect(differences(fromSql, await snapshot(migrated.superuser))).toEqual([]);
  expect(await seeds(built)).toEqual(await seeds(migrated.superuser));
});

test("sql/index.sql may be run again: it changes no object, and no row that an operator changed", async () => {
  const before = await snapshot(built);
  await built.query("update app.tiers set every = interval '90 minutes' where tier = 'ACTIVE'");
  await built.query("update app.job_kinds set timeout_seconds = 77");
  const secret = await built.query("select secret from app_private.seal_secret");
  const rows = await seeds(built);

  await build();
  expect(differences(await snapshot(built), before)).toEqual([]);
  expect(await seeds(built)).toEqual(rows);
  expect((await built.query("select secret from app_private.seal_secret")).rows).toEqual(secret.rows);
});

describe("a difference is seen, and named", () => {
  test.each([
    ["alter table app.findings add column extra text", ["column app.findings.extra: in sql/ alone"]],
    ["drop function app.findings_list", [/^function app.findings_list\(.*: in migrations\/ alone$/]],
    [
      "alter table app.job_run_keys alter column fingerprint type varchar(300)",
      [/^column app.job_run_keys.fingerprint: sql\/ says ".*varying/],
    ],
    ["alter table app.tiers alter column rank drop not null", [/^column app.tiers.rank: /]],
    [
      "alter table app.tiers alter column rank set default 4",
      [/^column app.tiers.rank: sql\/ says ".* 4 Which/],
    ],
    [
      "alter table app.tiers drop constraint tiers_rank_once",
      [/^constraint app.tiers tiers_rank_once: /, /^index /],
    ],
    ["drop index app.findings_state_rank_idx", ["index app.findings_state_rank_idx: in migrations/ alone"]],
    ["comment on column app.tiers.rank is 'First.'", [/^column app.tiers.rank: sql\/ says ".*First\."/]],
    ["comment on function app.enter is 'Enters.'", [/^function app.enter\(uuid,text\): .*Enters\./]],
    [
      "grant execute on function app.enter to holdfast_metrics",
      [/^function app.enter\(uuid,text\): .*holdfast_metrics=X/],
    ],
    ["grant select on app.tiers to holdfast_ops", [/^relation app.tiers: /]],
    ["grant update (rank) on app.tiers to holdfast_ops", [/^column app.tiers.rank: .*holdfast_ops=w/]],
    ["grant usage on schema ops to holdfast_service", [/^schema ops: .*holdfast_service=U/]],
    [
      "alter default privileges for role holdfast_owner grant select on tables to public",
      [/^default_privileges /],
    ],
    ["alter function app.enter set work_mem = '8MB'", [/^function app.enter\(uuid,text\): .*work_mem/]],
    ["alter function app.enter security invoker", [/^function app.enter\(uuid,text\): /]],
    ["alter function app_private.usd owner to holdfast_system", [/^function app_private.usd\(numeric\): /]],
    ["alter table app.findings no force row level security", [/^relation app.findings: /]],
    [
      "alter policy tenant_isolation on app.findings using (true)",
      [/^policy app.findings tenant_isolation: .*true/],
    ],
    [
      "drop trigger _100_transition on app.job_runs",
      [/^trigger app.job_runs _100_transition: in migrations/],
    ],
    ["alter table app.job_runs disable trigger _100_transition", [/^trigger app.job_runs _100_transition: /]],
    [
      "alter type app.cost_line_cells add attribute remark text",
      [/^column app.cost_line_cells.remark: in sql/],
    ],
    [
      "create sequence app.numbers",
      [/^column app.numbers\./, /./, /./, "relation app.numbers: in sql/ alone"],
    ],
    ["alter view tenant.cost_lines reset (security_barrier)", [/^relation tenant.cost_lines: /]],
    [
      "alter table app.llm_budget_periods reset (fillfactor)",
      [/^relation app.llm_budget_periods: .*fillfactor/],
    ],
  ] as [string, (string | RegExp)[]][])("%s", async (change, expected) => {
    const found = await rolledBack(built, async (client) => {
      const before = await snapshot(client);
      await client.query(change);
      return differences(await snapshot(client), before);
    });
    expect(found).toHaveLength(expected.length);
    found.forEach((line, index) => {
      const pattern = expected[index]!;
      if (typeof pattern === "string") expect(line).toBe(pattern);
      else expect(line).toMatch(pattern);
    });
  });
});
