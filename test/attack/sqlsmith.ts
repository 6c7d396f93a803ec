// Random statements by sqlsmith, which invents them from the catalog of a database: it prints, and runs none itself.
// https://github.com/anse1/sqlsmith; on Debian the package `sqlsmith`. The same seed on the same catalog gives the same.
import { spawn, spawnSync } from "node:child_process";
import { createInterface } from "node:readline";
import { TEST_PASSWORD } from "../support/constants.ts";

/** What sqlsmith reads, and how much it prints. */
export type Smithy = {
  host: string;
  port: number;
  database: string;
  /** Whether it uses the tables of the system catalog too. */
  catalog: boolean;
  seed: number;
  count: number;
};

/** Whether the program is installed. */
export function hasSqlsmith(): boolean {
  return spawnSync("sqlsmith", ["--version"]).status === 0;
}

/** The statements that sqlsmith prints, without their semicolons. Throws when it fails or prints fewer. */
export async function* smithed(smithy: Smithy): AsyncGenerator<string> {
  const { host, port, database, catalog, seed, count } = smithy;
  // As the tenant role it knows the tables that one may read; functions are known to all.
  const target =
    `host=${host} port=${port} user=holdfast_service password=${TEST_PASSWORD} dbname=${database} ` +
    `options='-c role=holdfast_tenant -c statement_timeout=60s'`;
  const child = spawn(
    "sqlsmith",
    [
      `--target=${target}`,
      "--dry-run",
      `--seed=${seed}`,
      `--max-queries=${count}`,
      ...(catalog ? [] : ["--exclude-catalog"]),
    ],
    { stdio: ["ignore", "pipe", "pipe"] },
  );
  let complaint = "";
  child.stderr.setEncoding("utf8").on("data", (text: string) => {
    complaint = (complaint + text).slice(-2_000);
  });
  const ended = new Promise<string>((resolve) => {
    child.on("error", (error) => resolve(String(error)));
    child.on("close", (code, signal) =>
      resolve(code === 0 ? "" : `sqlsmith ended by ${signal ?? code}: ${complaint}`),
    );
  });
  let printed = 0;
  try {
    let lines: string[] = [];
    for await (const line of createInterface({ input: child.stdout })) {
      if (!line.trimEnd().endsWith(";")) {
        lines.push(line);
        continue;
      }
      yield [...lines, line.trimEnd().slice(0, -1)].join("\n");
      lines = [];
      printed += 1;
    }
  } finally {
    child.kill(); // when nobody wants the rest
  }
  const failure = await ended;
  if (failure !== "") throw new Error(failure);
  if (printed !== count) throw new Error(`sqlsmith printed ${printed} statements instead of ${count}`);
}
