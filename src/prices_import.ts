// `npm run prices:import`: writes sql/prices/genai_prices.sql anew from the package @pydantic/genai-prices. A person
// reviews how it differs and runs it with psql.
import { existsSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { dirname, relative, resolve } from "node:path";
import { parseArgs } from "node:util";
import pg from "pg";
import { fail } from "./exit.ts";
import { projectFile } from "./migrate.ts";
import {
  jsonOf,
  leap,
  modelsOf,
  type PriceRow,
  PricesSuspect,
  priceRows,
  rowsOfSql,
  type Suspect,
  sqlOf,
  suspects,
} from "./prices.ts";

const FILE = projectFile("sql/prices/genai_prices.sql");
const HELP = `npm run prices:import               write ${relative(projectFile("."), FILE)} from @pydantic/genai-prices
npm run prices:import -- --dry-run  the same without writing it
  --json                            say it as one JSON document
  --accept PROVIDER/MODEL:UNIT      let this price pass, though it is not plausible; may be said again
  --file FILE                       write that file instead

A price that is negative, no number, free or absurdly dear stops the import, as does one that rises or falls tenfold
against the file that is there; with DATABASE_URL (a login that is holdfast_ops), also against app.llm_prices.
Exit: 0 done, 1 stopped, 2 wrong usage.`;

/** What differs between the file that was there and the new one. */
type Difference = { new: number; changed: number; gone: number };

try {
  const options = readOptions();
  if (options.help) process.stdout.write(`${HELP}\n`);
  else await importPrices(options);
} catch (error) {
  if (error instanceof PricesSuspect) {
    process.stderr.write(`${error.code}: ${error.message}\n`);
    process.stderr.write(
      "Look them up where the provider lists them; --accept PROVIDER/MODEL:UNIT lets one pass.\n",
    );
    process.exitCode = 1;
  } else {
    fail(error);
  }
}

function readOptions() {
  try {
    return parseArgs({
      options: {
        "dry-run": { type: "boolean", default: false },
        json: { type: "boolean", default: false },
        accept: { type: "string", multiple: true, default: [] },
        file: { type: "string" },
        help: { type: "boolean", short: "h", default: false },
      },
    }).values;
  } catch (error) {
    process.stderr.write(
      `${(error as Error).message}\nnpm run prices:import -- --help shows what there is.\n`,
    );
    process.exit(2);
  }
}

async function importPrices(options: ReturnType<typeof readOptions>): Promise<void> {
  const file = options.file === undefined ? FILE : resolve(process.env["INIT_CWD"] ?? ".", options.file);
  const before = existsSync(file) ? rowsOfSql(readFileSync(file, "utf8")) : [];
  const { rows, skipped } = priceRows();
  const found = suspects(rows, before);
  const url = process.env["DATABASE_URL"];
  if (url !== undefined) found.push(...(await againstTable(url, rows)));

  const accepted = new Set(options.accept);
  const refused = found.filter(({ name }) => !accepted.has(name));
  if (refused.length > 0) throw new PricesSuspect(refused);

  if (!options["dry-run"]) {
    mkdirSync(dirname(file), { recursive: true });
    writeFileSync(file, sqlOf(rows, skipped, packageVersion()));
  }
  const said = {
    file,
    written: !options["dry-run"],
    source: `@pydantic/genai-prices ${packageVersion()}`,
    providers: new Set(rows.map(({ provider }) => provider)).size,
    models: modelsOf(rows),
    rows: rows.length,
    ...differenceOf(before, rows),
    skipped,
  };
  process.stdout.write(options.json ? `${JSON.stringify(said, null, 2)}\n` : summary(said));
}

function summary(said: Difference & Record<"source" | "file", string> & Record<string, unknown>): string {
  const skipped = said["skipped"] as unknown[];
  return `${said.source}: ${said["rows"]} prices of ${said["models"]} models of ${said["providers"]} providers
against the file that was there: ${said.new} new, ${said.changed} changed, ${said.gone} gone
left out: ${skipped.length}, listed at the end of the file
${said["written"] ? `written: ${said.file}\nReview it, then: psql -f ${said.file}` : "nothing was written"}
`;
}

/** What the database would make of them. The rules of a leap are those of the file. */
async function againstTable(url: string, rows: PriceRow[]): Promise<Suspect[]> {
  const client = new pg.Client({ connectionString: url, application_name: "holdfast prices" });
  await client.connect();
  try {
    const { rows: changes } = await client.query(
      `select provider || '/' || model || ':' || unit as name, before_usd_per_million as before,
              after_usd_per_million as after
       from ops.llm_prices_load($1, source => $2, reason => 'a look before the import', dry_run => true)
       where change in ('changed', 'corrected') and before_usd_per_million is not null`,
      [jsonOf(rows), `@pydantic/genai-prices ${packageVersion()}`],
    );
    return changes.flatMap(({ name, before, after }) => leap(name, before, after));
  } finally {
    await client.end();
  }
}

function differenceOf(before: PriceRow[], after: PriceRow[]): Difference {
  const key = ({ usdPerMillion: _, ...rest }: PriceRow) => JSON.stringify(rest);
  const was = new Map(before.map((row) => [key(row), row.usdPerMillion]));
  const is = new Map(after.map((row) => [key(row), row.usdPerMillion]));
  return {
    new: [...is.keys()].filter((each) => !was.has(each)).length,
    changed: [...is].filter(([each, usd]) => was.has(each) && was.get(each) !== usd).length,
    gone: [...was.keys()].filter((each) => !is.has(each)).length,
  };
}

function packageVersion(): string {
  const path = projectFile("node_modules/@pydantic/genai-prices/package.json");
  return JSON.parse(readFileSync(path, "utf8")).version;
}
