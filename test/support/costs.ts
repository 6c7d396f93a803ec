// Cost lines as the shell sends them, and imports of them, for tests.
import { as, oneAs, type Row } from "./contract.ts";
import type { TestDatabase } from "./database.ts";

/** Cells by column of `app.cost_line_cells`; what is absent is that of a sound line of usage for one dollar on one day. */
export type Cells = Record<string, string | number | null>;

const QUOTED = /["\\]/g;

/** A row literal: null is an empty field, everything else is quoted. */
export function literal(cells: (string | number | null | undefined)[]): string {
  const field = (cell: string | number | null | undefined) =>
    cell === null || cell === undefined ? "" : `"${String(cell).replaceAll(QUOTED, "$&$&")}"`;
  return `(${cells.map(field).join(",")})`;
}

const isoDay = (date: Date) => date.toISOString().slice(0, 10);

/** The day that is `days` later, as YYYY-MM-DD. */
export function dayAfter(day: string, days = 1): string {
  return isoDay(new Date(Date.parse(day) + days * 86_400_000));
}

/** A line of usage of `cost` on a UTC day, in the calendar month of that day; `cells` are its differences. */
export function usage(day: string, cost: number, cells: Cells = {}): Cells {
  const [year, month] = day.split("-").map(Number) as [number, number];
  return {
    billing_period_start: isoDay(new Date(Date.UTC(year, month - 1, 1))),
    billing_period_end: isoDay(new Date(Date.UTC(year, month, 1))),
    charge_period_start: day,
    charge_period_end: dayAfter(day),
    provider_name: "AWS",
    billing_account_id: "payer",
    sub_account_id: "111",
    sub_account_name: "web",
    service_name: "EC2",
    service_category: "Compute",
    region_id: "eu-west-1",
    charge_category: "Usage",
    billed_cost: cost,
    effective_cost: cost,
    list_cost: cost,
    contracted_cost: cost,
    list_unit_price: cost,
    pricing_quantity: 1,
    consumed_quantity: 1,
    billing_currency: "USD",
    ...cells,
  };
}

/** The import functions as the service calls them. */
export type Costs = {
  start(tenantId: string, source?: string, fileName?: string): Promise<string>;
  /** Adds lines, numbered from `from` on unless they say their own number. */
  add(tenantId: string, importId: string, lines: Cells[], from?: number): Promise<number>;
  rollUp(tenantId: string, importId: string): Promise<number>;
  publish(tenantId: string, importId: string): Promise<Row>;
  fail(tenantId: string, importId: string, error: unknown): Promise<void>;
  /** A whole import, from start to published; gives its id. */
  load(tenantId: string, lines: Cells[], source?: string): Promise<string>;
  /** The row literals of lines. */
  literals(lines: Cells[], from?: number): Promise<string[]>;
};

/** The imports of a test database. */
export function costsOf({ service, superuser }: TestDatabase): Costs {
  let order: Promise<string[]> | undefined;
  const columns = () => {
    order ??= superuser
      .query(
        `select attname from pg_attribute
         where attrelid = 'app.cost_line_cells'::regclass and attnum > 0 and not attisdropped order by attnum`,
      )
      .then(({ rows }) => rows.map((row) => row.attname as string));
    return order;
  };
  const costs: Costs = {
    async start(tenantId, source = "aws", fileName = "costs.csv") {
      const text =
        "select app.cost_import_start($1, $2, source => $3, file_name => $4, focus_version => '1.0') as id";
      return (await oneAs(service, tenantId, text, [source, fileName]))["id"];
    },
    async literals(lines, from = 2) {
      const names = await columns();
      return lines.map((line, index) => {
        const no = line["line_no"] ?? from + index;
        // Each line has an article of its own, so that two of them are not taken for the same charge twice.
        const whole: Cells = { sku_id: `sku ${no}`, ...line, line_no: no };
        const unknown = Object.keys(whole).filter((name) => !names.includes(name));
        if (unknown.length > 0) throw new Error(`app.cost_line_cells has no ${unknown.join(", ")}`);
        return literal(names.map((name) => whole[name]));
      });
    },
    async add(tenantId, importId, lines, from) {
      const text = "select app.cost_import_add($1, $2, import_id => $3, rows => $4) as n";
      return (await oneAs(service, tenantId, text, [importId, await costs.literals(lines, from)]))["n"];
    },
    async rollUp(tenantId, importId) {
      return (await oneAs(service, tenantId, "select app.cost_import_roll_up($1, $2, $3) as n", [importId]))[
        "n"
      ];
    },
    publish: (tenantId, importId) =>
      oneAs(service, tenantId, "select * from app.cost_import_publish($1, $2, $3)", [importId]),
    async fail(tenantId, importId, error) {
      await as(service, tenantId, "select app.cost_import_fail($1, $2, $3, $4)", [
        importId,
        JSON.stringify(error),
      ]);
    },
    async load(tenantId, lines, source) {
      const importId = await costs.start(tenantId, source);
      await costs.add(tenantId, importId, lines);
      await costs.rollUp(tenantId, importId);
      await costs.publish(tenantId, importId);
      return importId;
    },
  };
  return costs;
}
