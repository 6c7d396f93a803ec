// What isolation costs: each query of a tenant beside the same query without row security that names the tenant, and
// what a table, an UPDATE and entering cost inside PL/pgSQL. Asserts nothing. `npm run bench:rls -- --help`.
import { parseArgs } from "node:util";
import type { ClientConfig } from "pg";
import { withClient } from "../../src/migrate.ts";
import { measureInside } from "./rls/inside.ts";
import { asMarkdown, type Report } from "./rls/print.ts";
import { measureQueries } from "./rls/queries.ts";
import { makeScene, type Size } from "./rls/scene.ts";
import { openServer } from "./server.ts";

/** Nothing but the queries writes: no background work falls into a round. */
const QUIET = { fsync: "off", autovacuum: "off", shared_buffers: "1GB", max_wal_size: "8GB", jit: "off" };

const HELP = `npm run bench:rls -- [--rows 1000000] [--tenants 1000] [--json]

Without more, on an embedded server of its own in a temporary folder, in about two minutes. BENCH_DATABASE_URL, or
else TEST_DATABASE_URL, names other servers, by the URL of a superuser; several stand side by side with blanks
between, and "embedded" is the one of its own. On a given server it works in a scratch database, which it drops, and
sets the passwords of our logins: use one for tests. Medians; tables in markdown on stdout, or JSON; progress on stderr.`;

const { values: options } = parseArgs({
  options: {
    rows: { type: "string", default: "1000000" },
    tenants: { type: "string", default: "1000" },
    json: { type: "boolean", default: false },
    help: { type: "boolean", default: false },
  },
});

if (options.help) {
  console.log(HELP);
} else {
  const size = { rows: wholeNumber("rows", options.rows), tenants: wholeNumber("tenants", options.tenants) };
  if (size.rows < size.tenants * 2) throw new Error("--rows must be twice --tenants, or more");
  const urls = process.env["BENCH_DATABASE_URL"] || process.env["TEST_DATABASE_URL"] || "embedded";
  const reports: Report[] = [];
  for (const where of urls.split(/\s+/).filter((url) => url !== "")) {
    reports.push(await bench(where, size));
  }
  console.log(options.json ? JSON.stringify(reports, null, 2) : reports.map(asMarkdown).join("\n\n"));
}

async function bench(where: string, size: Size): Promise<Report> {
  const start = performance.now();
  const say = (what: string) =>
    console.error(`${((performance.now() - start) / 1000).toFixed(0).padStart(4)} s  ${what}`);
  say("starting");
  const server = await openServer(where, QUIET);
  const interrupted = () => void server.stop().finally(() => process.exit(130));
  for (const signal of ["SIGINT", "SIGTERM"] as const) process.on(signal, interrupted);
  try {
    const scratch = await server.scratch();
    say(`PostgreSQL ${server.version}: making twice ${size.rows} rows of ${size.tenants} tenants`);
    await makeScene(scratch.superuser, size);
    return await withClient({ connectionString: scratch.url("holdfast_service") }, async (client) => ({
      server_version: server.version,
      ...size,
      queries: await measureQueries(client, size, { say, tidy: () => tidy(scratch.superuser) }),
      inside: await measureInside(client, size, say),
    }));
  } finally {
    for (const signal of ["SIGINT", "SIGTERM"] as const) process.off(signal, interrupted);
    await server.stop();
    say("done");
  }
}

async function tidy(superuser: ClientConfig): Promise<void> {
  await withClient(superuser, (client) => client.query("vacuum bench.plain, bench.isolated"));
}

function wholeNumber(name: string, text: string): number {
  const value = Number(text);
  if (!Number.isSafeInteger(value) || value < 1) throw new Error(`--${name} must be a whole number above 0`);
  return value;
}
