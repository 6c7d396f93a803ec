// sql/ reads like the database: one object a file, in the file of its name, each listed once in index.sql.
import { readdirSync, readFileSync } from "node:fs";
import { describe, expect, test } from "vitest";
import { projectFile } from "../src/migrate.ts";
import { testDatabase } from "./support/database.ts";

const database = testDatabase();

/** Every file under sql/, by its path from there. */
const files = new Map(
  readdirSync(projectFile("sql"), { recursive: true, encoding: "utf8" })
    .filter((path) => path.endsWith(".sql"))
    .sort()
    .map((path) => [path, readFileSync(projectFile(`sql/${path}`), "utf8")]),
);

/** Of the cluster, of the queue's schema, the list itself, and prices that a person loads: all that is not in the list. */
const OUTSIDE = ["index.sql", "prices/genai_prices.sql", "roles.sql", "superuser.sql", "worker_grants.sql"];
/** What sets the ground or runs a function, and so makes no object of its name. */
const WITHOUT_OBJECT = ["app_private/schema.sql", "app_private/partitions_now.sql"];
const WIDEST = 110;
const LONGEST_BODY = 60;

const listed = [...files.get("index.sql")!.matchAll(/^--!include (.+)$/gm)].map((match) => match[1]!);
const objectFiles = [...files.keys()].filter(
  (path) => !OUTSIDE.includes(path) && !WITHOUT_OBJECT.includes(path),
);

/** The functions, procedures, tables, views and types that a text creates. */
function created(sql: string): { kind: string; name: string }[] {
  const pattern =
    /^\s*create (?:or replace )?(?:unlogged )?(function|procedure|table|view|materialized view|type|aggregate|domain|sequence)(?: if not exists)? ([a-z_0-9.]+)/gm;
  return [...sql.matchAll(pattern)].map((match) => ({ kind: match[1]!, name: match[2]! }));
}

test("there is something to look at", () => {
  expect(files.size).toBeGreaterThan(130);
  expect(listed.length).toBeGreaterThan(130);
});

test("index.sql lists every file once, and no other", () => {
  expect([...listed].sort()).toEqual([...files.keys()].filter((path) => !OUTSIDE.includes(path)));
});

test("index.sql groups the files under comments and holds nothing else", () => {
  const others = files
    .get("index.sql")!
    .split("\n")
    .filter((line) => !/^(--!include [a-z_]+\/[a-z0-9_]+\.sql|-- .+|)$/.test(line));
  expect(others).toEqual([]);
});

test.each(objectFiles)("%s creates the object of its name, says what it is, and nothing more", (path) => {
  const sql = files.get(path)!;
  const name = path.replace("/", ".").replace(/\.sql$/, "");
  const objects = created(sql);
  expect(objects.map((object) => object.name)).toEqual([name]);

  const { kind } = objects[0]!;
  expect(sql).toMatch(new RegExp(`^comment on ${kind} ${name.replace(".", "\\.")} is\\s+'`, "m"));
});

test.each(WITHOUT_OBJECT)("%s begins with a comment and creates no object", (path) => {
  expect(files.get(path)).toMatch(/^-- /);
  expect(created(files.get(path)!)).toEqual([]);
});

test("the object of every file is in the database, and every object has a file", async () => {
  const { rows } = await database.superuser.query<{ name: string }>(
    `select n.nspname || '.' || o.name as name
     from pg_namespace as n
     cross join lateral (
       select p.proname as name from pg_proc as p where p.pronamespace = n.oid
       union all
       select c.relname from pg_class as c
       where c.relnamespace = n.oid and c.relkind in ('r', 'p', 'v', 'm', 'c', 'S', 'f') and not c.relispartition) as o
     where n.nspname in ('app', 'app_private', 'ops')
       or (n.nspname = 'tenant' and o.name ~ '_current$') -- the others are made by app_private.fence`,
  );
  const names = objectFiles.map((path) => path.replace("/", ".").replace(/\.sql$/, ""));
  expect(rows.map((row) => row.name).sort()).toEqual(names.sort());
});

test(`a line of code has at most ${WIDEST} columns; prose in quotes may be longer`, () => {
  const prose = /^\s*('|\('|comment on |--)/;
  const wide = [...files].flatMap(([path, sql]) =>
    sql.split("\n").flatMap((line, index) => {
      const tooWide = [...line].length > WIDEST && !prose.test(line);
      return tooWide ? [`${path}:${index + 1}: ${[...line].length}`] : [];
    }),
  );
  expect(wide).toEqual([]);
});

test(`a function's body has at most ${LONGEST_BODY} lines`, () => {
  const bodies = [...files].flatMap(([path, sql]) =>
    [...sql.matchAll(/\bas \$\$\n([\s\S]*?)\$\$/g)].map((match) => ({
      path,
      lines: match[1]!.split("\n").length - 1,
    })),
  );
  expect(bodies.length).toBeGreaterThan(60);
  expect(bodies.filter(({ lines }) => lines > LONGEST_BODY)).toEqual([]);
});

// Up to PostgreSQL 17 a forbidden scan that must be made all the same costs 1e10, and what is so dear is compiled:
// 30 ms for each call, where the login does not turn that off.
test("a function that forbids sequential scans forbids compiling too", async () => {
  const { rows } = await database.superuser.query<{ name: string; compiles: boolean }>(
    `select p.oid::regproc::text as name, not 'jit=off' = any (p.proconfig) as compiles
     from pg_proc as p where 'enable_seqscan=off' = any (p.proconfig)`,
  );
  expect(rows.length).toBeGreaterThan(10);
  expect(rows.filter(({ compiles }) => compiles)).toEqual([]);
});

describe("what is raised", () => {
  const raised = [...files].flatMap(([path, sql]) =>
    [...sql.matchAll(/errcode = '(.+?)',?\s*\n?\s*message = '(.+?)'/g)].map((match) => ({
      path,
      sqlstate: match[1]!,
      name: match[2]!,
    })),
  );
  // What a function answers for one of many, app_private.llm_raise raises for one alone, with the SQLSTATE of the list.
  const answered = [...files.values()].flatMap((sql) =>
    [...sql.matchAll(/\brefusal := ([\s\S]*?);/g)].flatMap((match) =>
      [...match[1]!.matchAll(/'([a-z_]+)'/g)].map((name) => name[1]!),
    ),
  );

  test("every exception has a SQLSTATE of app.error_codes, under its fixed name", async () => {
    const { rows } = await database.superuser.query("select sqlstate, name from app.error_codes");
    const known = new Map(rows.map((row) => [row.sqlstate, row.name]));
    expect(raised.length).toBeGreaterThan(20);
    for (const { path, sqlstate, name } of raised)
      expect(known.get(sqlstate), `${path} ${sqlstate}`).toBe(name);
    expect(answered.filter((name) => name !== "replayed" && ![...known.values()].includes(name))).toEqual([]);
    for (const [sqlstate, name] of known) {
      expect(
        [...raised.map((each) => each.name), ...answered],
        `${sqlstate} is listed, so something raises it`,
      ).toContain(name);
    }
  });

  test("no exception is without a SQLSTATE, a name and a hint", () => {
    for (const [path, sql] of files) {
      if (path === "app_private/llm_raise.sql") continue; // all three come from its caller
      const raises = [...sql.matchAll(/\braise exception\b[\s\S]*?;/g)].map((match) => match[0]);
      for (const raise of raises) {
        expect(raise, path).toMatch(
          /^raise exception using\s+errcode = '[A-Z]{2}\d{3}',\s+message = '[a-z_]+',/,
        );
        expect(raise, path).toMatch(/\bhint\s+=\s/);
      }
    }
  });

  test("every SQLSTATE that a comment promises is one that exists", async () => {
    const { rows } = await database.superuser.query<{ sqlstate: string }>(
      "select sqlstate from app.error_codes",
    );
    const known = rows.map((row) => row.sqlstate);
    for (const [path, sql] of files) {
      for (const [state] of sql.matchAll(/\b(?!L\d|P\d)[A-Z]{2}[123]\d{2}\b/g))
        expect(known, `${path} ${state}`).toContain(state);
    }
  });
});

test("nothing is left to do, and no transaction is ended, in a file", () => {
  for (const [path, sql] of files) {
    expect(sql, path).not.toMatch(/\b(TODO|FIXME|XXX|HACK)\b/i);
    expect(sql, path).not.toMatch(/^\s*(commit|rollback|begin);/im);
    expect(sql.endsWith("\n") && !sql.endsWith("\n\n"), `${path} ends with one newline`).toBe(true);
    expect(sql, path).not.toMatch(/[ \t]+$|\t/m);
  }
});

test("a file that works as holdfast_system goes back to holdfast_owner", () => {
  for (const [path, sql] of files) {
    const roles = [...sql.matchAll(/^set local role (\w+);$/gm)].map((match) => match[1]);
    if (roles.length > 0) expect(roles, path).toEqual(["holdfast_system", "holdfast_owner"]);
    expect(sql.replaceAll(/^set local role \w+;$/gm, ""), path).not.toMatch(
      /\b(set|reset) (session |local )?(role|authorization)/i,
    );
  }
});
