// The list of prices in sql/prices/: what @pydantic/genai-prices knows of the providers that we call, as rows of
// app.llm_prices. What app.llm_prices cannot say is left out, and said.
import {
  calcPrice,
  findProvider,
  type ModelInfo,
  type ModelPrice,
  type Provider,
} from "@pydantic/genai-prices";

/** A row of the list: what a million of a unit costs, for prompts of that length, in that time. */
export type PriceRow = {
  /** The host that bills. */
  provider: string;
  model: string;
  unit: string;
  /** An exact decimal. */
  usdPerMillion: string;
  promptTokensFrom: number;
  promptTokensBelow: number | null;
  /** Days in UTC; null: from ever, or for ever. */
  validFrom: string | null;
  validUntil: string | null;
};

/** What the source has and the list does not. */
export type Skipped = { provider: string; model: string; why: string };

/** A price that no person should let pass unseen. `name` is what `--accept` takes. */
export type Suspect = { name: string; before: string | null; after: string; why: string };

/** The import stops: its prices are not plausible. */
export class PricesSuspect extends Error {
  readonly code = "prices_suspect";
  readonly suspects: Suspect[];

  constructor(suspects: Suspect[]) {
    const lines = suspects.map(
      ({ name, before, after, why }) =>
        `  ${name}: ${before === null ? "" : `${before} -> `}${after} (${why})`,
    );
    super(`these prices are not plausible:\n${lines.join("\n")}`);
    this.name = "PricesSuspect";
    this.suspects = suspects;
  }
}

/** Who bills, by the provider's id in the source. Its `api_pattern` matches the host, save for Bedrock's, which has a region in it. */
export const HOSTS: Record<string, string> = {
  openai: "api.openai.com",
  anthropic: "api.anthropic.com",
  google: "generativelanguage.googleapis.com",
  groq: "api.groq.com",
  mistral: "api.mistral.ai",
  deepseek: "api.deepseek.com",
  aws: "bedrock-runtime.amazonaws.com",
  "x-ai": "api.x.ai",
  perplexity: "api.perplexity.ai",
};

/** Names that the source knows only by how they begin. */
const SNAPSHOTS: Record<string, string[]> = {
  anthropic: [
    "claude-3-haiku-20240307",
    "claude-3-opus-20240229",
    "claude-3-5-sonnet-20240620",
    "claude-3-5-sonnet-20241022",
    "claude-3-5-sonnet-latest",
    "claude-3-5-haiku-20241022",
    "claude-3-7-sonnet-20250219",
    "claude-opus-4-1-20250805",
    "claude-opus-4-5-20251101",
    "claude-sonnet-4-20250514",
    "claude-sonnet-4-5-20250929",
    "claude-haiku-4-5-20251001",
  ],
  google: ["gemini-2.0-flash-001", "gemini-2.0-flash-lite-001"],
  mistral: ["magistral-medium-latest", "magistral-small-latest"],
};

/** A key of the source, the unit that it is here, and how many of it a million of ours are, over a million of theirs. */
const UNITS: Record<string, { unit: string; times?: bigint }> = {
  input_mtok: { unit: "input" },
  cache_read_mtok: { unit: "cached_input" },
  cache_write_mtok: { unit: "cache_write_5m" },
  cache_write_5m_mtok: { unit: "cache_write_5m" },
  cache_write_1h_mtok: { unit: "cache_write_1h" },
  output_mtok: { unit: "output" },
  output_reasoning_mtok: { unit: "reasoning" },
  requests_kcount: { unit: "request", times: 1000n },
};

/** What a caller must send before it is billed: text alone brings none of it on, so the model has a bound without it. */
const BY_REQUEST =
  /^(input_(audio|image|video|document|annotated_document)|cache_(audio|image|video)|web_searches|storage_searches|input_audio)/;

/** Models that are billed for something that text brings on and the source has no price for, or by another host. */
const UNBOUNDED: { names: RegExp; provider?: string; why: string }[] = [
  {
    names: /realtime|audio|tts|transcribe|whisper|image|embed|moderation|native-audio|-live-|^gemini-live/,
    why: "not a model of text",
  },
  {
    names: /-search-(preview|api)|deep-research/,
    why: "searches by itself, at a fee that the source does not list",
  },
  { provider: "google", names: /^claude|^anthropic\/|-maas$/, why: "billed by Vertex AI, another host" },
];

/** Above it a price is a mistake; also the bound of app.llm_prices. */
const MOST_USD = 100_000;
const MOST_USD_OF_COUNTS = 1_000_000_000;
const MOST_DECIMALS = 9;
const REGIONS = ["us", "eu", "apac", "jp", "au", "us-gov", "in"];

/** What a unit costs by the length of the prompt: from how many tokens on, and how much. */
type Step = { from: number; usd: number };
type Steps = Step[];
type Period = { from: string | null; until: string | null; candidates: ModelPrice[] };

/** The rows of these providers, sorted; by default of `HOSTS`, from the data of the package. */
export function priceRows(providers: Provider[] = packaged()): { rows: PriceRow[]; skipped: Skipped[] } {
  const rows: PriceRow[] = [];
  const skipped: Skipped[] = [];
  for (const provider of providers) {
    const host = HOSTS[provider.id]!;
    const names = namesOf(provider);
    for (const model of provider.models) {
      const why = unboundedBecause(provider, model.id, model);
      if (why !== undefined) skipped.push({ provider: host, model: model.id, why });
      const left = why === undefined ? leftOut(model) : [];
      if (left.length > 0) {
        skipped.push({ provider: host, model: model.id, why: `without ${left.join(", ")}` });
      }
      for (const name of why === undefined ? (names.get(model.id) ?? []) : []) {
        const unbounded = unboundedBecause(provider, name, model);
        if (unbounded === undefined) rows.push(...rowsOf(host, name, model));
        else skipped.push({ provider: host, model: name, why: unbounded });
      }
    }
  }
  rows.sort(byName);
  skipped.sort((a, b) => compare([a.provider, a.why, a.model], [b.provider, b.why, b.model]));
  return { rows, skipped };
}

function packaged(): Provider[] {
  return Object.keys(HOSTS).map((providerId) => {
    const provider = findProvider({ providerId });
    if (provider === undefined) throw new Error(`@pydantic/genai-prices knows no provider ${providerId}.`);
    return provider;
  });
}

/** The full names of each model, by its id. A name is that of the first model that it matches, as the source looks it up. */
function namesOf(provider: Provider): Map<string, string[]> {
  const names = new Set(SNAPSHOTS[provider.id] ?? []);
  for (const { id, match } of provider.models) {
    if (provider.id === "aws") for (const name of bedrockNames(id)) names.add(name);
    else names.add(id);
    for (const said of saidInFull(match)) names.add(said);
  }
  const unpriced = { ...provider, models: provider.models.map((model) => ({ ...model, prices: {} })) };
  const found = new Map<string, string[]>();
  for (const name of [...names].sort()) {
    const id = calcPrice({}, name, { provider: unpriced })?.model.id;
    if (id !== undefined) found.set(id, [...(found.get(id) ?? []), name]);
  }
  return found;
}

/** A profile of inference has the region before the name; `regional.` is the source's word for one of them. */
function bedrockNames(id: string): string[] {
  if (id.startsWith("global.")) return [id];
  const regional = id.startsWith("regional.");
  const name = id.replace(/^regional\./, "");
  const profiles = regional ? REGIONS : /^(amazon|meta|deepseek|writer)\./.test(name) ? ["us"] : [];
  return [name, ...profiles.map((region) => `${region}.${name}`)];
}

function saidInFull(match: ModelInfo["match"]): string[] {
  if ("equals" in match) return [match.equals];
  return "or" in match ? match.or.flatMap(saidInFull) : [];
}

/** Why no bound of a call's cost follows from what the source says of a model; undefined when one does. */
function unboundedBecause(provider: Provider, name: string, { prices }: ModelInfo): string | undefined {
  for (const { candidates } of periodsOf(prices)) {
    for (const price of candidates) {
      if (price["input_mtok"] === undefined || price["output_mtok"] === undefined)
        return "no price of input and output";
      if ([price["input_mtok"], price["output_mtok"]].every((each) => dearest(each) === 0))
        return "free there, so nothing bounds it here";
      const other = Object.keys(price).find((key) => !(key in UNITS) && !BY_REQUEST.test(key));
      if (other !== undefined) return `${other} is no unit of ours, and text alone may bring it on`;
    }
  }
  return UNBOUNDED.find((each) => (each.provider ?? provider.id) === provider.id && each.names.test(name))
    ?.why;
}

/** What of a model is left out: it has to be asked for, and SQL refuses that where it has no price. */
function leftOut({ prices }: ModelInfo): string[] {
  const keys = periodsOf(prices).flatMap(({ candidates }) => candidates.flatMap(Object.keys));
  return [...new Set(keys)].filter((key) => !(key in UNITS)).sort();
}

/**
 * The times in which a price applies, and all that may apply in each: a price by the time of day is there beside the
 * others, as the source looks it up, from the last to the first.
 */
function periodsOf(prices: ModelInfo["prices"]): Period[] {
  if (!Array.isArray(prices)) return [{ from: null, until: null, candidates: [prices] }];
  const days = prices.flatMap(({ constraint }) =>
    constraint !== undefined && "start_date" in constraint ? [constraint.start_date] : [],
  );
  const starts = [null, ...[...new Set(days)].sort()];
  return starts.map((from, index) => {
    const candidates: ModelPrice[] = [];
    let always: ModelPrice | undefined;
    for (const { constraint, prices: each } of [...prices].reverse()) {
      if (constraint === undefined) always = each;
      else if ("start_time" in constraint) candidates.push(each);
      else if (from !== null && constraint.start_date <= from) always = each;
      if (always !== undefined) break;
    }
    return {
      from,
      until: starts[index + 1] ?? null,
      candidates: [...candidates, always ?? prices[0]!.prices],
    };
  });
}

function rowsOf(provider: string, model: string, { prices }: ModelInfo): PriceRow[] {
  const periods = periodsOf(prices).map((period) => ({
    ...period,
    units: unitsOf(model, period.candidates),
  }));
  const units = [...new Set(periods.flatMap((period) => [...period.units.keys()]))];
  return units.flatMap((unit) => {
    const times: { from: string | null; until: string | null; steps: [number, string][] }[] = [];
    for (const period of periods) {
      const steps = period.units.get(unit);
      const last = times.at(-1);
      if (steps === undefined) continue;
      if (last?.until === period.from && JSON.stringify(last?.steps) === JSON.stringify(steps))
        last!.until = period.until;
      else times.push({ from: period.from, until: period.until, steps });
    }
    return times.flatMap(({ from, until, steps }) =>
      steps.map(([promptTokensFrom, usdPerMillion], index) => ({
        provider,
        model,
        unit,
        usdPerMillion,
        promptTokensFrom,
        promptTokensBelow: steps[index + 1]?.[0] ?? null,
        validFrom: from,
        validUntil: until,
      })),
    );
  });
}

/** Each unit's price by the length of the prompt: the dearest of those that may apply. */
function unitsOf(model: string, candidates: ModelPrice[]): Map<string, [number, string][]> {
  const units = new Map<string, [number, string][]>();
  for (const [key, { unit, times = 1n }] of Object.entries(UNITS)) {
    if (!candidates.some((price) => price[key] !== undefined)) continue;
    // A kind of input that one of them has no price for costs there what input does.
    const input = key.startsWith("cache_") ? "input_mtok" : key;
    const steps = highest(candidates.map((price) => stepsOf(price[key] ?? price[input])));
    units.set(
      unit,
      steps.map(({ from, usd }) => [from, decimal(usd, times)]),
    );
  }
  // Anthropic bills twice the price of input for what a cache keeps for an hour, wherever it runs; the source says so for
  // api.anthropic.com alone. Without it, such a write would be priced as one of five minutes.
  if (model.includes("claude") && units.has("cache_write_5m") && !units.has("cache_write_1h")) {
    const steps = highest(candidates.map((price) => stepsOf(price["input_mtok"])));
    units.set(
      "cache_write_1h",
      steps.map(({ from, usd }) => [from, decimal(usd, 2n)]),
    );
  }
  return units;
}

/** The source's tier begins above its start: with the token after it. */
function stepsOf(price: ModelPrice[string]): Steps {
  if (price === undefined) return [{ from: 0, usd: 0 }];
  if (typeof price === "number") return [{ from: 0, usd: price }];
  const tiers = [...price.tiers].sort((a, b) => a.start - b.start);
  return [{ from: 0, usd: price.base }, ...tiers.map(({ start, price: usd }) => ({ from: start + 1, usd }))];
}

function highest(all: Steps[]): Steps {
  const borders = [...new Set(all.flatMap((steps) => steps.map(({ from }) => from)))].sort((a, b) => a - b);
  const steps = borders.map((from) => ({
    from,
    usd: Math.max(...all.map((each) => each.findLast((step) => step.from <= from)!.usd)),
  }));
  return steps.filter(({ usd }, index) => index === 0 || !Object.is(usd, steps[index - 1]!.usd));
}

function dearest(price: ModelPrice[string]): number {
  return Math.max(...stepsOf(price).map(({ usd }) => usd));
}

/** A number of the source, times a whole one, as the decimal that it was written as. What is no number stays what it is. */
export function decimal(value: number, times = 1n): string {
  if (!Number.isFinite(value)) return String(value);
  const [mantissa = "", exponent = "0"] = String(Math.abs(value)).split("e");
  const [whole = "", fraction = ""] = mantissa.split(".");
  const places = fraction.length - Number(exponent);
  const digits = BigInt(whole + fraction) * times * 10n ** BigInt(Math.max(0, -places));
  const text = String(digits).padStart(Math.max(0, places) + 1, "0");
  const point = text.length - Math.max(0, places);
  const sign = value < 0 ? "-" : "";
  return `${sign}${text.slice(0, point)}.${text.slice(point)}`.replace(/\.?0*$/, "");
}

/**
 * What is not plausible: a price that is no price, and one that is ten times, or a tenth of, what it was. `before` is the
 * list that is there; what is new has nothing to be compared with.
 */
export function suspects(rows: PriceRow[], before: PriceRow[]): Suspect[] {
  const exact = new Map(before.map((row) => [keyOf(row, row.validFrom), row]));
  const latest = new Map(before.map((row) => [keyOf(row, null), row])); // sorted by time: the last one stays
  const bases = new Map(before.flatMap((row) => (row.promptTokensFrom === 0 ? [[unitOf(row), row]] : [])));
  return rows.flatMap((row): Suspect[] => {
    const name = unitOf(row);
    const absurd = absurdity(row);
    if (absurd !== undefined) return [{ name, before: null, after: row.usdPerMillion, why: absurd }];
    const was = exact.get(keyOf(row, row.validFrom)) ?? latest.get(keyOf(row, null)) ?? bases.get(name);
    return was === undefined ? [] : leap(name, was.usdPerMillion, row.usdPerMillion);
  });
}

/** Whether a price leaps: none or one suspect. */
export function leap(name: string, before: string, after: string): Suspect[] {
  const [was, is] = [Number(before), Number(after)];
  if (was === is) return [];
  if (is >= 10 * was) return [{ name, before, after, why: "rises tenfold or more" }];
  return is * 10 <= was ? [{ name, before, after, why: "falls to a tenth or less" }] : [];
}

function absurdity({ unit, usdPerMillion }: PriceRow): string | undefined {
  const usd = Number(usdPerMillion);
  if (!Number.isFinite(usd)) return "no number";
  if (usd < 0) return "negative";
  if (usd > (["request", "image", "tool_call"].includes(unit) ? MOST_USD_OF_COUNTS : MOST_USD))
    return "too dear";
  if (usd === 0 && ["input", "output"].includes(unit)) return "free";
  return (usdPerMillion.split(".")[1] ?? "").length > MOST_DECIMALS ? "too many decimals" : undefined;
}

const unitOf = ({ provider, model, unit }: PriceRow) => `${provider}/${model}:${unit}`;
const keyOf = (row: PriceRow, validFrom: string | null) =>
  JSON.stringify([row.provider, row.model, row.unit, row.promptTokensFrom, validFrom]);

function byName(a: PriceRow, b: PriceRow): number {
  return (
    compare(
      [a.provider, a.model, a.unit, a.validFrom ?? ""],
      [b.provider, b.model, b.unit, b.validFrom ?? ""],
    ) || a.promptTokensFrom - b.promptTokensFrom
  );
}

function compare(a: string[], b: string[]): number {
  const index = a.findIndex((each, i) => each !== b[i]);
  if (index < 0) return 0;
  return a[index]! < b[index]! ? -1 : 1;
}

/** The file: one statement, which a person reviews and then runs. */
export function sqlOf(rows: PriceRow[], skipped: Skipped[], version: string): string {
  const source = `@pydantic/genai-prices ${version}`;
  const names =
    "provider, model, unit, usd_per_million, prompt_tokens_from, prompt_tokens_below, valid_from, valid_until";
  const types = ["", "", "", "::numeric", "::bigint", "::bigint", "::timestamptz", "::timestamptz"];
  const lines = rows.map((row, index) => {
    const values = [
      literal(row.provider),
      literal(row.model),
      literal(row.unit),
      row.usdPerMillion,
      String(row.promptTokensFrom),
      row.promptTokensBelow === null ? "null" : String(row.promptTokensBelow),
      row.validFrom === null ? "null" : literal(`${row.validFrom} 00:00Z`),
      row.validUntil === null ? "null" : literal(`${row.validUntil} 00:00Z`),
    ];
    return `    (${values.map((value, i) => (index === 0 ? value + types[i] : value)).join(", ")})`;
  });
  return `-- Prices of models, from ${source} (MIT): ${rows.length} of ${modelsOf(rows)} models.
-- Made by npm run prices:import. Review how it differs from the one before, then let a login that is holdfast_ops run it:
--   PGOPTIONS='-c holdfast.dry_run=on' psql -f sql/prices/genai_prices.sql   shows what it would change
--   psql -f sql/prices/genai_prices.sql                                      does it; twice is once
-- It is no migration: those run by themselves and once, and a price list is looked at and comes again.
-- Prices by the time of day are the dearest ones. A model has the names that the source says in full and those that
-- src/prices.ts adds; any other is refused (no_price) until ops.llm_price_set gives it a price. What is left out is below.
select *
from ops.llm_prices_load(
  source  => ${literal(source)},
  reason  => 'reviewed list of prices',
  dry_run => coalesce(nullif(current_setting('holdfast.dry_run', true), '')::boolean, false),
  rows    => (select jsonb_agg(p) from (values
${lines.join(",\n")}
  ) as p (
    ${names.replace(", prompt_tokens_from", ",\n    prompt_tokens_from")})));

-- Left out:
${leftOutLines(skipped).join("\n")}
`;
}

function leftOutLines(skipped: Skipped[]): string[] {
  const models = new Map<string, string[]>();
  for (const { provider, model, why } of skipped) {
    models.set(`${provider}, ${why}`, [...(models.get(`${provider}, ${why}`) ?? []), model]);
  }
  return [...models].flatMap(([what, names]) => [`-- ${what}:`, ...names.map((name) => `--   ${name}`)]);
}

/** The rows of a file that `sqlOf` has made. */
export function rowsOfSql(sql: string): PriceRow[] {
  const line =
    /^ {4}\('((?:[^']|'')+)'(?:::\w+)?, '((?:[^']|'')+)', '(\w+)', ([^,]+), (\d+)(?:::bigint)?, (\w+)(?:::bigint)?, (null|'[^']+')(?:::timestamptz)?, (null|'[^']+')(?:::timestamptz)?\),?$/gm;
  return [...sql.matchAll(line)].map(
    ([, provider = "", model = "", unit = "", usd = "", from, below, since, until]) => ({
      provider: provider.replaceAll("''", "'"),
      model: model.replaceAll("''", "'"),
      unit,
      usdPerMillion: usd.replace("::numeric", ""),
      promptTokensFrom: Number(from),
      promptTokensBelow: below === "null" ? null : Number(below),
      validFrom: since === "null" ? null : since!.slice(1, 11),
      validUntil: until === "null" ? null : until!.slice(1, 11),
    }),
  );
}

/** The rows as `ops.llm_prices_load` takes them. */
export function jsonOf(rows: PriceRow[]): string {
  return JSON.stringify(
    rows.map((row) => ({
      provider: row.provider,
      model: row.model,
      unit: row.unit,
      usd_per_million: row.usdPerMillion,
      prompt_tokens_from: row.promptTokensFrom,
      prompt_tokens_below: row.promptTokensBelow,
      valid_from: row.validFrom === null ? null : `${row.validFrom}T00:00Z`,
      valid_until: row.validUntil === null ? null : `${row.validUntil}T00:00Z`,
    })),
  );
}

/** How many models the rows are of. */
export function modelsOf(rows: PriceRow[]): number {
  return new Set(rows.map((row) => `${row.provider}/${row.model}`)).size;
}

function literal(text: string): string {
  return `'${text.replaceAll("'", "''")}'`;
}
