// What an adversary who knows holdfast would try: sessions of statements, each a template in which `@{name}` stands for
// a value that is filled in when it runs, so that a session can be run again, and once more with ids that nobody has.
import type { Random } from "../../src/sample/random.ts";
import { call, hold, set, transaction, write } from "./grammar/deeds.ts";
import { copy, indirect, select, spoof } from "./grammar/reads.ts";
import { choose, type Vocabulary, type Words } from "./grammar/words.ts";
import type { AttackScene, SceneDatabase } from "./scene.ts";

/** Reads the vocabulary from the catalog: what is added to the schema tomorrow is attacked tomorrow. */
export async function vocabularyOf(database: SceneDatabase, scene: AttackScene): Promise<Vocabulary> {
  const { rows: columns } = await database.superuser.query<{ table: string; column: string; type: string }>(
    `select a.attrelid::regclass::text as table, a.attname as column, a.atttypid::regtype::text as type
     from pg_attribute as a
     where a.attrelid = any ($1::regclass[]) and a.attnum > 0 and not a.attisdropped order by 1, a.attnum`,
    [[...new Set([...scene.readable, ...scene.tables])]],
  );
  const { rows: functions } = await database.superuser.query<{
    name: string;
    names: string[];
    types: string[];
  }>(
    `select p.pronamespace::regnamespace || '.' || p.proname as name,
            coalesce(p.proargnames, '{}')::text[] as names,
            array(select t::regtype::text from unnest(p.proargtypes) with ordinality as u (t, n) order by n) as types
     from pg_proc as p
     where p.pronamespace::regnamespace::text in ('app', 'app_private', 'ops') and p.prokind = 'f'
       and p.prorettype::regtype::text not in ('trigger', 'event_trigger')
     order by 1`,
  );
  const byTable: Vocabulary["columns"] = {};
  for (const { table, column, type } of columns) {
    byTable[table] ??= [];
    byTable[table].push([column, type]);
  }
  return {
    readable: scene.readable,
    tables: scene.tables,
    columns: byTable,
    functions: functions.map(({ name, names, types }) => ({
      name,
      args: types.map((type, index) => [names[index] ?? "", type]),
    })),
  };
}

const enter = (words: Words): string => `select app.enter('${words.tenant()}', '${words.ticket()}')`;

/** The kinds of statements, and how often each comes. */
const KINDS: [weight: number, make: (words: Words) => string][] = [
  [20, select],
  [14, spoof],
  [10, set],
  [8, enter],
  [22, call],
  [8, write],
  [8, hold],
  [4, copy],
  [8, indirect],
  [8, transaction],
];
const WEIGHT = KINDS.reduce((sum, [weight]) => sum + weight, 0);

/** Makes one session after the other: it enters its own tenant, mostly becomes the tenant role, and then tries. */
export function sessionsOf(vocabulary: Vocabulary, random: Random): () => string[] {
  const words = choose(vocabulary, random);
  const sentence = (): string => {
    let at = random.uniform() * WEIGHT;
    const kind = KINDS.find(([weight]) => {
      at -= weight;
      return at < 0;
    });
    return (kind ?? KINDS[0]!)[1](words);
  };
  return () => {
    const opening = ["begin", "select app.enter('@{mine}', '@{ticket}')"];
    if (!words.chance(0.15)) opening.push("set local role holdfast_tenant");
    const more = Array.from({ length: 4 + Math.floor(random.uniform() * 12) }, sentence);
    const ends = (text: string) => /^(commit|rollback)$/.test(text) && words.chance(0.7);
    return [...opening, ...more.flatMap((text) => (ends(text) ? [text, ...opening] : [text]))];
  };
}
