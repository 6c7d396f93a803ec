// The README is a program too: its sql and sh blocks run, and what it names is there.
import { execFile } from "node:child_process";
import { mkdtemp, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { promisify } from "node:util";
import { afterAll, beforeAll, describe, expect, inject, test } from "vitest";
import { importFocus } from "../src/imports.ts";
import { projectFile, withClient } from "../src/migrate.ts";
import { inDatabase, TEST_PASSWORD, TEST_TICKET_KEY } from "./support/constants.ts";
import { testDatabase } from "./support/database.ts";

const run = promisify(execFile);
const readme = await readFile(projectFile("README.md"), "utf8");
const database = testDatabase();
const server = inject("server");
const hasPsql = await run("psql", ["--version"]).then(
  () => true,
  () => false,
);
if (!hasPsql) console.info("No psql on this machine: the README's blocks that need it are skipped.");

/** The blocks of one language, each with its first line as a name. */
function blocks(language: string): { name: string; text: string }[] {
  return [...readme.matchAll(new RegExp(`^\`\`\`${language}\\n(.*?)^\`\`\`$`, "gms"))].map(
    ([, text = ""]) => ({
      name: text.split("\n", 1)[0] ?? "",
      text,
    }),
  );
}

/** As psql takes it: a URL over TCP, or the parameters of a Unix socket. */
function administratorUrl(target = "postgres"): string {
  const { connectionString, host, port, user, password } = inDatabase(server.administrator, target);
  if (connectionString !== undefined) return connectionString;
  const secret = password === undefined ? "" : `&password=${password}`;
  return `postgresql:///${target}?host=${encodeURIComponent(host ?? "")}&port=${port}&user=${user}${secret}`;
}

describe("sql blocks", () => {
  beforeAll(async () => {
    const { tenantId } = await database.addTenant();
    await importFocus(database.worker, tenantId, {
      path: projectFile("test/data/focus_small.csv"),
      source: "test",
    });
  });

  test.each(blocks("sql"))("$name", async ({ text }) => {
    const answers = [await database.ops.query(text)].flat();
    expect(answers.length).toBe(text.match(/;/g)?.length);
  });
});

describe("sh blocks", () => {
  const created = `readme_${database.name}`;
  let directory: string;
  beforeAll(async () => {
    directory = await mkdtemp(join(tmpdir(), "holdfast-readme-"));
  });
  afterAll(async () => {
    await withClient(server.administrator, (client) =>
      client.query(`drop database if exists ${created} with (force)`),
    );
    await rm(directory, { recursive: true });
  });

  // The database is made by psql.
  const wantsPsql = /\bpsql\b|\$DATABASE\b/;
  for (const { name, text } of blocks("sh")) {
    test.skipIf(!hasPsql && wantsPsql.test(text))(name, { timeout: 120_000 }, () => runs(text));
  }

  async function runs(text: string): Promise<void> {
    const environment = {
      ...process.env,
      ENVIRONMENT: "development",
      HOLDFAST_DIR: directory,
      HTTP_PORT: "0",
      ADMINISTRATOR_URL: administratorUrl(),
      SUPERUSER_URL: administratorUrl(created),
      DATABASE: created,
      PASSWORD: TEST_PASSWORD,
      SERVER: `${server.host}:${server.port}`,
      TICKET_KEY: TEST_TICKET_KEY.secret.toString("base64"),
    };
    const { stdout, stderr } = await run("bash", ["-euo", "pipefail", "-c", text], {
      cwd: projectFile("."),
      env: environment,
      maxBuffer: 64 * 1024 * 1024,
    });
    expect(`${stdout}${stderr}`).not.toMatch(/\b(ERROR|FATAL):|"level":"(error|fatal)"/);
  }
});

test("every npm script that the README names is there", async () => {
  const { scripts } = JSON.parse(await readFile(projectFile("package.json"), "utf8"));
  const named = [...readme.matchAll(/npm run (?:--silent )?([\w:]+)/g)].map(([, name]) => name);
  expect(named.length).toBeGreaterThan(5);
  expect(named.filter((name) => !(name! in scripts))).toEqual([]);
});

test("every file that the README names is there", async () => {
  const named = [...readme.matchAll(/`((?:sql|src|test|tasks|migrations)\/[\w./]+\.\w+)`/g)].map(
    ([, path]) => path!,
  );
  expect(named.length).toBeGreaterThan(10);
  await Promise.all(named.map((path) => readFile(projectFile(path))));
});
