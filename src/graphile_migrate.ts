// `npm run db:watch`, `db:commit` and the like: graphile-migrate on databases of its own in the embedded server, so that
// whoever changes the schema needs nothing set up. DATABASE_URL and the like in the environment come first.
import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { asOwner, bootstrap, projectFile, withClient } from "./migrate.ts";
import { startPostgres } from "./postgres.ts";

const PASSWORD = "only-for-development";
const DATABASE = "holdfast_development";

const directory = await mkdtemp(join(tmpdir(), "holdfast-migrate-"));
const server = await startPostgres({ directory, port: 0, settings: { fsync: "off" } });
try {
  process.exitCode = await graphileMigrate(process.argv.slice(2));
} finally {
  await server.stop();
  await rm(directory, { recursive: true });
}

async function graphileMigrate(command: string[]): Promise<number> {
  const passwords = { holdfast_admin: PASSWORD };
  await bootstrap(server.superuser, { database: DATABASE, passwords });
  await withClient(server.superuser, (client) => client.query("create role holdfast_root superuser login"));
  await withClient(server.superuser, (client) =>
    client.query(`alter role holdfast_root password '${PASSWORD}'`),
  );
  const at = `${server.host}:${server.port}`;
  const admin = `postgresql://holdfast_admin:${PASSWORD}@${at}`;
  const environment = {
    DATABASE_URL: asOwner(`${admin}/${DATABASE}`),
    SHADOW_DATABASE_URL: asOwner(`${admin}/${DATABASE}_shadow`),
    ROOT_DATABASE_URL: `postgresql://holdfast_root:${PASSWORD}@${at}/postgres`,
    ...process.env,
  };
  // A new database has none of the committed migrations, and `commit` and `watch` build on all of them.
  if (command[0] !== "status") await run(["migrate"], environment);
  return run(command, environment);
}

async function run(command: string[], environment: NodeJS.ProcessEnv): Promise<number> {
  const program = projectFile("node_modules/graphile-migrate/dist/cli.js");
  const child = spawn(process.execPath, [program, ...command], { stdio: "inherit", env: environment });
  for (const signal of ["SIGINT", "SIGTERM"] as const) process.on(signal, () => child.kill(signal));
  const [code] = await once(child, "exit");
  return Number(code ?? 1);
}
