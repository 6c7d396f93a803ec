// The words of the adversary's grammar: tables, columns, ids, tickets, settings, and conditions over rows.
import type { Random } from "../../../src/sample/random.ts";

/** A function of ours, with the types of its arguments by name. */
export type OurFunction = { name: string; args: [name: string, type: string][] };

/** What the words are chosen from. */
export type Vocabulary = {
  readable: string[];
  tables: string[];
  /** Columns of each table and view. */
  columns: Record<string, [name: string, type: string][]>;
  functions: OurFunction[];
};

/** Chooses words. */
export type Words = {
  readonly vocabulary: Vocabulary;
  pick<T>(values: readonly T[]): T;
  /** True in this part of all cases. */
  chance(part: number): boolean;
  tenant(): string;
  /** A ticket of its own, or one of another tenant that opens nothing. */
  ticket(): string;
  table(): string;
  /** A column of a table, of a type that fits where there is one. */
  column(table: string, type?: RegExp): string;
  /** The id of a row, mostly of another tenant; for an argument like run_id mostly that of a run. */
  id(argument?: string): string;
  setting(): string;
  /** An expression for a setting. */
  settingValue(): string;
};

const TENANTS = ["@{mine}", "@{mine}", "@{theirs}", "@{theirs}", "@{nobody}"];
const STALE = [
  "late",
  "other_backend",
  "forged",
  "cut",
  "half",
  "bent",
  "own_signature",
  "own_name",
  "spaced",
];
const SETTINGS = [
  "app.tenant",
  "role",
  "row_security",
  "session_authorization",
  "search_path",
  "is_superuser",
];
const OTHER_SETTINGS = [
  ...["app.become_tenant", "app.become_ticket", "TimeZone", "DateStyle", "statement_timeout"],
  ...["plan_cache_mode", "default_transaction_read_only", "client_min_messages", "debug_print_plan"],
  ...["lc_messages", "bytea_output", "work_mem", "session_replication_role", "exit_on_error"],
];
const VALUES = [
  "'@{theirs}'",
  "'@{theirs}' || right(current_setting('app.tenant', true), 65)",
  "'@{theirs}.' || repeat('0', 64)",
  "current_setting('app.tenant', true)",
  ...["''", "'on'", "'off'", "'0'", "'app, public'", "'none'", "'debug5'"],
  ...[
    "'holdfast_tenant'",
    "'holdfast_service'",
    "'holdfast_owner'",
    "'holdfast_system'",
    "'holdfast_worker'",
  ],
];

/** Words over a vocabulary; `random` chooses. */
export function choose(vocabulary: Vocabulary, random: Random): Words {
  const pick = <T>(values: readonly T[]): T => values[Math.floor(random.uniform() * values.length)]!;
  const chance = (part: number) => random.uniform() < part;
  const ids = vocabulary.tables.flatMap((name) =>
    vocabulary.columns[name]!.filter(([, type]) => type === "uuid").map(([column]) => `${name}.${column}`),
  );
  return {
    vocabulary,
    pick,
    chance,
    tenant: () => pick(TENANTS),
    ticket: () => (chance(0.5) ? "@{ticket}" : `@{${pick(STALE)}}`),
    table: () => pick(chance(0.9) ? vocabulary.readable : vocabulary.tables),
    column(table, type) {
      const all = vocabulary.columns[table]!;
      const fitting = all.filter((column) => type === undefined || type.test(column[1]));
      return pick(fitting.length > 0 ? fitting : all)[0];
    },
    id(argument = "") {
      if (chance(0.15)) return "@{nobody}";
      const stem = argument.replace(/_id$/, "");
      const names = [`${stem}s.id`, `${stem.replace(/is$/, "")}es.id`];
      const fitting = ids.filter((each) => names.some((name) => each.endsWith(`.${name}`)));
      const from = fitting.length === 0 || chance(0.2) ? ids : fitting;
      return `@{${pick(["own", "their", "their"])} ${pick(from)}}`;
    },
    setting: () => pick(chance(0.7) ? SETTINGS : OTHER_SETTINGS),
    settingValue: () => pick(VALUES),
  };
}

/** A condition over a row: true of some, or raising with what is in it. */
export function condition(words: Words, alias: string, table: string): string {
  const column = `${alias}.${words.column(table)}`;
  return words.pick([
    `${alias}.tenant_id = '${words.tenant()}'`,
    `${alias}.tenant_id <> '@{mine}'`,
    `(${column}::text)::int > 0`,
    `1 / (case when ${alias}.tenant_id = '${words.tenant()}' then 0 else 1 end) = 1`,
    `(${alias}::text)::int = 0`,
    `${alias}.${words.column(table, /uuid/)} = '${words.id()}'`,
    `${column} is not null`,
    `set_config('app.tenant', ${words.settingValue()}, ${words.pick(["true", "false"])}) is not null`,
    `to_jsonb(${alias}) ->> '${words.column(table)}' is not null`,
    `cast(to_jsonb(${alias}) as text)::xml is document`,
    `${column}::text like '%'`,
  ]);
}
