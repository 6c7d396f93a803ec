// sql/app_private/period_bounds.sql: days, weeks and months as the people of a time zone count them.
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { testDatabase } from "../support/database.ts";

const database = testDatabase();

/** The ends of the period around a moment, in UTC. */
async function bounds(period: string, zone: string, at: string): Promise<[string, string]> {
  const { rows } = await database.superuser.query(
    `select to_char(period_start at time zone 'UTC', 'YYYY-MM-DD HH24:MI') as "from",
            to_char(period_end at time zone 'UTC', 'YYYY-MM-DD HH24:MI') as "to"
     from app_private.period_bounds($1, $2, $3::timestamptz)`,
    [period, zone, at],
  );
  return [rows[0].from, rows[0].to];
}

describe("by hand", () => {
  test.each([
    // Kolkata is 5:30 ahead, without summer time.
    ["day", "Asia/Kolkata", "2026-11-20 18:29+00", "2026-11-19 18:30", "2026-11-20 18:30"],
    ["day", "Asia/Kolkata", "2026-11-20 18:30+00", "2026-11-20 18:30", "2026-11-21 18:30"],
    ["month", "Asia/Kolkata", "2026-02-28 18:30+00", "2026-02-28 18:30", "2026-03-31 18:30"],
    ["week", "Asia/Kolkata", "2026-11-20 12:00+00", "2026-11-15 18:30", "2026-11-22 18:30"],
    // Apia left out 30 December 2011: it went from 10 hours behind to 14 ahead.
    ["day", "Pacific/Apia", "2011-12-29 12:00-10", "2011-12-29 10:00", "2011-12-30 10:00"],
    ["day", "Pacific/Apia", "2011-12-31 12:00+14", "2011-12-30 10:00", "2011-12-31 10:00"],
    ["month", "Pacific/Apia", "2011-12-31 12:00+14", "2011-12-01 10:00", "2011-12-31 10:00"],
    ["week", "Pacific/Apia", "2011-12-31 12:00+14", "2011-12-26 10:00", "2012-01-01 10:00"],
    // São Paulo began summer time at midnight: 4 November 2018 began at one o'clock and had 23 hours.
    ["day", "America/Sao_Paulo", "2018-11-04 12:00-02", "2018-11-04 03:00", "2018-11-05 02:00"],
    ["day", "America/Sao_Paulo", "2018-11-03 23:59-03", "2018-11-03 03:00", "2018-11-04 03:00"],
    // It ended at midnight too: 17 February 2018 had its last hour twice, 25 in all.
    ["day", "America/Sao_Paulo", "2018-02-17 23:30-02", "2018-02-17 02:00", "2018-02-18 03:00"],
    ["day", "America/Sao_Paulo", "2018-02-17 23:30-03", "2018-02-17 02:00", "2018-02-18 03:00"],
    ["day", "America/Sao_Paulo", "2018-02-18 00:00-03", "2018-02-18 03:00", "2018-02-19 03:00"],
    ["month", "America/Sao_Paulo", "2018-02-20 00:00-03", "2018-02-01 02:00", "2018-03-01 03:00"],
    // Where clocks change in the night, that day has 23 or 25 hours.
    ["day", "Europe/Berlin", "2026-03-29 12:00+00", "2026-03-28 23:00", "2026-03-29 22:00"],
    ["day", "Europe/Berlin", "2026-10-25 12:00+00", "2026-10-24 22:00", "2026-10-25 23:00"],
    // Months of 28 to 31 days, and a leap day.
    ["month", "UTC", "2026-01-31 23:59+00", "2026-01-01 00:00", "2026-02-01 00:00"],
    ["month", "UTC", "2028-02-29 00:00+00", "2028-02-01 00:00", "2028-03-01 00:00"],
    ["month", "UTC", "2026-12-31 23:59+00", "2026-12-01 00:00", "2027-01-01 00:00"],
    ["week", "UTC", "2026-11-16 00:00+00", "2026-11-16 00:00", "2026-11-23 00:00"], // a Monday
    ["week", "UTC", "2027-01-01 00:00+00", "2026-12-28 00:00", "2027-01-04 00:00"],
  ])("the %s in %s around %s", async (period, zone, at, from, to) => {
    expect(await bounds(period, zone, at)).toEqual([from, to]);
  });

  test("total has no end", async () => {
    const { rows } = await database.superuser.query(
      "select period_start::text as from, period_end::text as to from app_private.period_bounds('total', 'UTC', now())",
    );
    expect(rows).toEqual([{ from: "-infinity", to: "infinity" }]);
  });
});

test("in every time zone, every hour is in its period, and periods follow one another without a gap", async () => {
  const seed = Number(process.env["SEED"] ?? Date.now() % 1_000_000);
  console.info(`period_bounds: SEED=${seed}`);
  const moments = fc.sample(
    fc.date({ min: new Date("2015-01-01"), max: new Date("2027-01-01"), noInvalidDate: true }),
    {
      seed,
      numRuns: 60,
    },
  );
  const { rows } = await database.superuser.query(
    `with moments as (
       select date_trunc('hour', m.at) + interval '30 minutes' as at from unnest($1::timestamptz[]) as m (at)
       union all -- the days on which clocks go back at midnight, hour by hour
       select h.at from unnest(array['2018-02-17', '2025-10-26', '2025-11-02', '2026-10-25']::timestamptz[]) as d (day)
       cross join lateral generate_series(d.day - interval '6 hours', d.day + interval '30 hours', interval '30 minutes') as h (at)
     )
     select k.period, z.name as zone, m.at, p.period_start, p.period_end
     from moments as m
     cross join (values ('day'), ('week'), ('month')) as k (period)
     cross join unnest(array['UTC', 'Pacific/Apia', 'America/Sao_Paulo', 'Asia/Kolkata', 'Atlantic/Azores',
       'America/Havana', 'Europe/Berlin', 'Australia/Lord_Howe', 'Asia/Beirut', 'Africa/Cairo', 'America/Asuncion']) as z (name)
     cross join lateral app_private.period_bounds(k.period, z.name, m.at) as p
     left join lateral app_private.period_bounds(k.period, z.name, p.period_end) as n on true
     where not (p.period_start <= m.at and m.at < p.period_end and n.period_start = p.period_end)
     order by m.at limit 5`,
    [moments],
  );
  expect(rows).toEqual([]);
});

/** Of months on an anchor day: the ends of the period around a moment, in the zone's own time. */
async function months(zone: string, anchor: number, at: string): Promise<[string, string]> {
  const { rows } = await database.superuser.query(
    `select to_char(period_start at time zone $1, 'YYYY-MM-DD HH24:MI') as "from",
            to_char(period_end at time zone $1, 'YYYY-MM-DD HH24:MI') as "to"
     from app_private.period_bounds('month', $1, $2::timestamptz, $3::smallint)`,
    [zone, at, anchor],
  );
  return [rows[0].from, rows[0].to];
}

describe("months that begin on an anchor day", () => {
  test.each<[number, string, string, string]>([
    // A month that is shorter begins on its last day.
    [31, "2026-01-31 00:00", "2026-01-31", "2026-02-28"],
    [31, "2026-02-27 23:59", "2026-01-31", "2026-02-28"],
    [31, "2026-02-28 00:00", "2026-02-28", "2026-03-31"],
    [31, "2026-03-30 23:59", "2026-02-28", "2026-03-31"],
    [31, "2026-04-29 12:00", "2026-03-31", "2026-04-30"],
    [31, "2026-04-30 00:00", "2026-04-30", "2026-05-31"],
    [31, "2026-12-31 00:00", "2026-12-31", "2027-01-31"],
    [31, "2028-02-28 23:59", "2028-01-31", "2028-02-29"],
    [31, "2028-02-29 00:00", "2028-02-29", "2028-03-31"],
    [30, "2026-02-28 00:00", "2026-02-28", "2026-03-30"],
    [30, "2026-03-29 23:59", "2026-02-28", "2026-03-30"],
    [30, "2026-03-31 12:00", "2026-03-30", "2026-04-30"],
    [29, "2028-02-29 00:00", "2028-02-29", "2028-03-29"],
    [29, "2026-02-28 00:00", "2026-02-28", "2026-03-29"],
    [29, "2027-01-01 00:00", "2026-12-29", "2027-01-29"],
    [15, "2026-11-14 23:59", "2026-10-15", "2026-11-15"],
    [15, "2026-11-15 00:00", "2026-11-15", "2026-12-15"],
    [1, "2026-11-30 23:59", "2026-11-01", "2026-12-01"],
  ])("on day %i, around %s", async (anchor, at, from, to) => {
    for (const zone of ["UTC", "Asia/Kolkata", "Pacific/Apia"]) {
      const { rows } = await database.superuser.query("select ($1::timestamp at time zone $2)::text as at", [
        at,
        zone,
      ]);
      expect(await months(zone, anchor, rows[0].at), zone).toEqual([`${from} 00:00`, `${to} 00:00`]);
    }
  });

  test("where the day was left out, the month begins with the day after it", async () => {
    // Apia had no 30 December 2011.
    expect(await months("Pacific/Apia", 30, "2011-12-29 12:00-10")).toEqual([
      "2011-11-30 00:00",
      "2011-12-31 00:00",
    ]);
    expect(await months("Pacific/Apia", 30, "2011-12-31 00:00+14")).toEqual([
      "2011-12-31 00:00",
      "2012-01-30 00:00",
    ]);
    expect(await months("Pacific/Apia", 31, "2011-12-29 23:59-10")).toEqual([
      "2011-11-30 00:00",
      "2011-12-31 00:00",
    ]);
  });

  test("in Lisbon, on the nights on which its clocks change", async () => {
    // At one o'clock: midnight is there once each time, before it.
    expect(await months("Europe/Lisbon", 29, "2026-03-29 00:59+00")).toEqual([
      "2026-03-29 00:00",
      "2026-04-29 00:00",
    ]);
    expect(await months("Europe/Lisbon", 29, "2026-03-28 23:59+00")).toEqual([
      "2026-02-28 00:00",
      "2026-03-29 00:00",
    ]);
    expect(await bounds("day", "Europe/Lisbon", "2026-03-29 12:00+00")).toEqual([
      "2026-03-29 00:00",
      "2026-03-29 23:00",
    ]);
    expect(await bounds("day", "Europe/Lisbon", "2026-10-25 12:00+00")).toEqual([
      "2026-10-24 23:00",
      "2026-10-26 00:00",
    ]);
  });
});

/** Years with what is odd in them: days left out and twice, zones that moved, leap days. */
const SPANS: [zone: string, from: string, to: string][] = [
  ["Pacific/Apia", "2011-06-01", "2012-07-01"],
  ["America/Sao_Paulo", "2017-09-01", "2019-04-01"],
  ["Asia/Kolkata", "2027-06-01", "2028-12-01"],
  ["Europe/Lisbon", "1992-06-01", "1993-12-01"],
  ["Europe/Lisbon", "2027-02-01", "2028-06-01"],
  ["Africa/Casablanca", "2018-03-01", "2019-06-01"],
  ["America/Havana", "2025-10-01", "2026-12-01"],
];

test.each(SPANS)(
  "in %s from %s to %s periods tile the time: each begins where the one before ends, and every moment is in one",
  async (zone, from, to) => {
    const { rows } = await database.superuser.query<{ kind: string; n: number; wrong: unknown[] }>(
      `with recursive kinds as (
         select k.period, k.anchor
         from (values ('day', 1), ('week', 1), ('month', 1), ('month', 15), ('month', 28), ('month', 29), ('month', 30),
           ('month', 31)) as k (period, anchor)
       ),
       walk as (
         select k.period, k.anchor, p.period_start, p.period_end
         from kinds as k
         cross join lateral app_private.period_bounds(k.period, $1, $2::timestamptz, k.anchor::smallint) as p
         union all
         select w.period, w.anchor, p.period_start, p.period_end
         from walk as w
         cross join lateral app_private.period_bounds(w.period, $1, w.period_end, w.anchor::smallint) as p
         -- An end that does not come later would never end.
         where w.period_end < $3::timestamptz and w.period_end > w.period_start
       ),
       seen as (
         select w.*, lag(w.period_end) over (partition by w.period, w.anchor order by w.period_start) as last_end
         from walk as w
       ),
       wrong as (
         select s.period, s.anchor, s.period_start, s.period_end, s.last_end, m.at
         from seen as s
         cross join lateral (
           values (s.period_start), (s.period_start + interval '59 minutes'),
             (s.period_end - interval '61 minutes'), (s.period_end - interval '1 microsecond')) as m (at)
         cross join lateral app_private.period_bounds(s.period, $1, m.at, s.anchor::smallint) as p
         where s.last_end <> s.period_start
           or (p.period_start, p.period_end) is distinct from (s.period_start, s.period_end)
       )
       select s.period || ' ' || s.anchor as kind, count(*)::int as n,
              (select coalesce(jsonb_agg(w), '[]') from wrong as w where w.period = s.period and w.anchor = s.anchor) as wrong
       from seen as s group by s.period, s.anchor`,
      [zone, from, to],
    );
    expect(rows.flatMap(({ wrong }) => wrong.slice(0, 3))).toEqual([]);
    const spanned = (Date.parse(to) - Date.parse(from)) / 86_400_000;
    const expected = { day: spanned, week: spanned / 7, month: spanned / 30.44 } as Record<string, number>;
    expect(rows).toHaveLength(8);
    // As many as there are days, weeks and months, give or take the ends.
    for (const { kind, n } of rows)
      expect(Math.abs(n - expected[kind.split(" ")[0]!]!), kind).toBeLessThan(3);
  },
);
