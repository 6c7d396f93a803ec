// What makes random statements worth running: where sqlsmith writes "null of this type", a value that means something
// here, and rows where it would skip or sample them all away.
import type pg from "pg";
import type { Random } from "../../src/sample/random.ts";
import { type AttackScene, OWN_WORD } from "./scene.ts";

const NULL = /cast\(null as ("?[a-z0-9_ ]+"?)\)/gi;
const OFFSET = /\boffset (\d+)/g;
/** Types that have no equality; circles have. */
const SHAPES = /cast\(null as (point|polygon|path|json|xml)\)( = | <> )cast\(null as \1\)/g;
const SAMPLE = /(tablesample \w+) \([\d.]+\)/g;

const SETTINGS = ["app.tenant", "role", "row_security", "search_path", "session_authorization", "TimeZone"];
const WORDS = [OWN_WORD, "", "1", "on", "off", "holdfast_owner", "app.findings", "offline", "%", "a.b", "{}"];
const NUMBERS = ["0", "1", "-1", "2", "7", "100", "2147483647"];
const RELATIONS = [
  "tenant.tenants",
  "tenant.findings",
  "app.cost_lines",
  "app_private.ticket_keys",
  "pg_class",
];

/** SQL literals by type. An attacker knows ids of the other tenant: a leak is what a statement did not say itself. */
function literals(scene: AttackScene): Record<string, string[]> {
  const first = (ids: Record<string, string[]>, ...names: string[]) =>
    names.map((name) => ids[name]?.[0] ?? "");
  const keys = ["app.findings.id", "app.job_runs.id", "app.llm_reservations.id", "app.cost_imports.id"];
  const ids = [
    scene.mine.tenantId,
    scene.mine.tenantId,
    scene.foreign.tenantId,
    ...first(scene.ids.mine, ...keys),
    ...first(scene.ids.foreign, ...keys),
    "00000000-0000-7000-8000-000000000000",
  ];
  return {
    uuid: ids,
    text: [...SETTINGS, ...WORDS, scene.mine.tenantId, scene.foreign.tenantId],
    name: [...SETTINGS, "tenant_id", "holdfast_tenant"],
    int2: ["0", "1", "-1", "7"],
    int4: NUMBERS,
    int8: [...NUMBERS, "9223372036854775807"],
    numeric: [...NUMBERS, "0.5", "NaN"],
    float4: ["0", "1.5", "-1"],
    float8: ["0", "1.5", "Infinity"],
    bool: ["true", "false"],
    json: ["{}", "[]", '{"a": 1}', "null"],
    jsonb: ["{}", "[]", '{"a": 1}', '{"note": "x"}'],
    jsonpath: ["$", "$.*", "$.a"],
    date: ["2026-04-01", "infinity"],
    timestamptz: ["2026-04-01 00:00+00", "infinity"],
    timestamp: ["2026-04-01", "-infinity"],
    interval: ["0", "1 day"],
    oid: ["0", "1"],
    regclass: RELATIONS,
    bytea: ["\\x", "\\x00ff"],
    xid: ["1"],
    bpchar: ["x"],
    varchar: ["x", "app.tenant"],
    xml: ["<a/>"],
    _text: ["{}", "{a,b}"],
    tsvector: ["a b"],
    tsquery: ["a"],
    inet: ["127.0.0.1"],
    bit: ["1"],
    money: ["1"],
  };
}

/** The types that no value has, and one that takes its place: with both sides of an operator the same, it exists. */
const CONCRETE: Record<string, string> = {
  anymultirange: "tstzmultirange",
  anycompatiblemultirange: "tstzmultirange",
  anyrange: "tstzrange",
  anycompatiblerange: "tstzrange",
  anyarray: "text[]",
  anycompatiblearray: "text[]",
  anyelement: "text",
  anynonarray: "text",
  anycompatible: "text",
  anycompatiblenonarray: "text",
  anyenum: "text",
  cstring: "text",
};

/** Functions that the tenant role may not execute, by name, with the type that a null takes in their place. */
export async function closedFunctions(superuser: pg.Pool): Promise<Map<string, string>> {
  const { rows } = await superuser.query<{ name: string; type: string }>(
    `select p.pronamespace::regnamespace || '.' || p.proname as name, min(p.prorettype::regtype::text) as type
     from pg_proc as p group by 1
     having not bool_or(has_function_privilege('holdfast_tenant', p.oid, 'execute'))`,
  );
  return new Map(rows.map(({ name, type }) => [name, type === "void" ? "text" : type]));
}

/**
 * Gives a function that makes a statement of sqlsmith worth running; `random` decides, so a seed fixes what it does.
 * Most calls of the functions in `closed` are taken out: a statement that is refused before it runs shows nothing.
 */
export function seasoning(
  scene: AttackScene,
  closed: ReadonlyMap<string, string>,
): (text: string, random: Random) => string {
  const known = literals(scene);
  return (text, random) => {
    const pick = (values: string[]) => values[Math.floor(random.uniform() * values.length)]!;
    const valued = withoutCalls(text, closed, random)
      .replace(SHAPES, "cast(null as circle)$2cast(null as circle)")
      .replace(NULL, (whole, quoted: string) => {
        const type = quoted.replaceAll('"', "");
        if (CONCRETE[type] !== undefined) return `cast(null as ${CONCRETE[type]})`;
        if (known[type] === undefined || random.uniform() < 0.15) return whole;
        return `cast('${pick(known[type]).replaceAll("'", "''")}' as ${quoted})`;
      })
      .replace(OFFSET, (_, rows: string) => `offset ${Number(rows) % 2}`)
      .replace(SAMPLE, (_, how: string) => `${how} (100)`);
    return opened(valued, random);
  };
}

const CONDITION = /\b(?:where|on(?=\s*\())\b/g;
const AFTER = /\b(?:limit|returning|group|order|window|union|offset|fetch|for)\b|[()]/g;

/**
 * The statement with most of its conditions made true where they are unknown, and some wherever: what they ask is still
 * asked, but rows come through.
 */
function opened(text: string, random: Random): string {
  const added: { at: number; what: string }[] = [];
  for (const { index, 0: word } of text.matchAll(CONDITION)) {
    const chance = random.uniform();
    if (chance < 0.15) continue;
    const start = index + word.length;
    added.push({ at: start, what: " (" });
    added.push({
      at: conditionEnd(text, start),
      what: chance < 0.75 ? ") is not false " : ") is null or true ",
    });
  }
  let [result, copied] = ["", 0];
  for (const { at, what } of added.sort((a, b) => a.at - b.at)) {
    result += text.slice(copied, at) + what;
    copied = at;
  }
  return result + text.slice(copied);
}

const CALL = /\b[a-z_]+\.[a-z0-9_]+(?=\()/g;

/** The statement with nine in ten of its calls of closed functions replaced by a null of their type. */
function withoutCalls(text: string, closed: ReadonlyMap<string, string>, random: Random): string {
  let [result, copied] = ["", 0];
  for (const { index, 0: name } of text.matchAll(CALL)) {
    const type = closed.get(name);
    if (type === undefined || index < copied || random.uniform() < 0.1) continue;
    result += `${text.slice(copied, index)}cast(null as ${type})`;
    copied = conditionEnd(text, index + name.length + 1) + 1;
  }
  return result + text.slice(copied);
}

/** Where the condition that begins at `start` ends: at a word that cannot be in one, or a parenthesis too many. */
function conditionEnd(text: string, start: number): number {
  let depth = 0;
  AFTER.lastIndex = start;
  for (let found = AFTER.exec(text); found !== null; found = AFTER.exec(text)) {
    if (found[0] === "(") depth += 1;
    else if (found[0] === ")") depth -= 1;
    else if (depth === 0) return found.index;
    if (depth < 0) return found.index;
    // The condition of a join is one pair of parentheses.
    if (depth === 0 && /\bon\s*$/.test(text.slice(0, start))) return AFTER.lastIndex;
  }
  return text.length;
}
