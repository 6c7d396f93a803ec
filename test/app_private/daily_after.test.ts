// sql/app_private/daily_after.sql and what it rests on: one turn on each date of a time zone, whatever clocks do.
import { describe, expect, test } from "vitest";
import type { Row } from "../support/contract.ts";
import { testDatabase } from "../support/database.ts";

const database = testDatabase();
const rows = async (text: string, values: unknown[] = []) =>
  (await database.superuser.query(text, values)).rows as Row[];

/** The turn of a date, as UTC. */
const on = async (date: string, zone: string, at: string): Promise<string | null> =>
  (
    await rows(
      "select to_char(app_private.daily_on($1, $2, $3) at time zone 'UTC', 'YYYY-MM-DD HH24:MI:SS') as utc",
      [date, zone, at],
    )
  )[0]!["utc"];

describe("the moment on a date", () => {
  test.each([
    ["2026-07-01", "UTC", "09:00", "2026-07-01 09:00:00"],
    ["2026-07-01", "Europe/Berlin", "09:00", "2026-07-01 07:00:00"],
    // Clocks jump from 02:00 to 03:00: the first valid moment after.
    ["2026-03-29", "Europe/Berlin", "02:30", "2026-03-29 01:00:00"],
    ["2026-03-29", "Europe/Berlin", "02:00", "2026-03-29 01:00:00"],
    ["2026-03-29", "Europe/Berlin", "03:00", "2026-03-29 01:00:00"],
    ["2026-03-29", "Europe/Berlin", "01:59:59", "2026-03-29 00:59:59"],
    // Clocks show 02:00 to 03:00 twice: the first of the two.
    ["2026-10-25", "Europe/Berlin", "02:30", "2026-10-25 00:30:00"],
    ["2026-10-25", "Europe/Berlin", "03:00", "2026-10-25 02:00:00"],
    ["2026-03-08", "America/New_York", "02:30", "2026-03-08 07:00:00"],
    ["2026-11-01", "America/New_York", "01:30", "2026-11-01 05:30:00"],
    // Half an hour, in both directions, in the southern summer.
    ["2026-10-04", "Australia/Lord_Howe", "02:15", "2026-10-03 15:30:00"],
    ["2026-04-05", "Australia/Lord_Howe", "01:45", "2026-04-04 14:45:00"],
    ["2026-07-01", "Asia/Kolkata", "00:00", "2026-06-30 18:30:00"],
    ["2026-07-01", "Asia/Kathmandu", "23:59:59", "2026-07-01 18:14:59"],
    ["2026-07-01", "Pacific/Kiritimati", "00:00", "2026-06-30 10:00:00"],
    ["2026-07-01", "Pacific/Niue", "23:59:59", "2026-07-02 10:59:59"],
    ["2026-07-01", "Etc/GMT+12", "12:00", "2026-07-02 00:00:00"],
    // Two hours at once, in the night of the south pole.
    ["2026-03-29", "Antarctica/Troll", "01:30", "2026-03-29 01:00:00"],
    // The date line was moved over it: this date was never there.
    ["2011-12-30", "Pacific/Apia", "09:00", null],
    ["2011-12-29", "Pacific/Apia", "09:00", "2011-12-29 19:00:00"],
    ["2011-12-31", "Pacific/Apia", "09:00", "2011-12-30 19:00:00"],
    // The clock jumps from 23:00 into the next date: the last second of this one.
    ["2024-03-30", "America/Nuuk", "23:30", "2024-03-31 00:59:59"],
    ["2024-03-31", "America/Nuuk", "23:30", "2024-04-01 00:30:00"],
    // Midnight does not exist.
    ["2018-11-04", "America/Sao_Paulo", "00:00", "2018-11-04 03:00:00"],
    // Midnight comes twice: at 00:01 the clock went back to 23:01 of the day before.
    ["2010-11-07", "America/St_Johns", "00:00:30", "2010-11-07 02:30:30"],
  ])("%s in %s at %s: %s", async (date, zone, at, utc) => {
    expect(await on(date, zone, at)).toBe(utc);
  });
});

const ZONES = [
  ...["UTC", "Europe/Berlin", "America/New_York", "America/St_Johns", "America/Sao_Paulo", "America/Nuuk"],
  ...[
    "Asia/Kolkata",
    "Asia/Kathmandu",
    "Australia/Lord_Howe",
    "Pacific/Apia",
    "Pacific/Kiritimati",
    "Pacific/Niue",
  ],
  ...["Antarctica/Troll", "Africa/Casablanca", "Asia/Gaza", "Europe/London"],
];

describe.each(ZONES)("in %s", (zone) => {
  test("one turn on each date that there was, and none on another", async () => {
    for (const at of ["00:00", "02:30", "12:00", "23:30"]) {
      const faults = await rows(
        `with turns as (
           select d.date, app_private.daily_on(d.date, $1, $2) as moment
           from (select g::date as date from generate_series(timestamp '2009-12-28', '2012-01-05', '1 day') as g) as d
         )
         select t.date, t.moment from turns as t
         where (t.moment is null) = exists (
             select from generate_series(0, 47) as h
             where ((t.date::timestamp at time zone $1) + h * interval '30 minutes') at time zone $1 >= t.date
               and (((t.date::timestamp at time zone $1) + h * interval '30 minutes') at time zone $1)::date = t.date)
           or (t.moment at time zone $1)::date <> t.date`,
        [zone, at],
      );
      expect(faults, at).toEqual([]);
    }
  });

  test("each turn leads to the next one, and the moments between belong to it", async () => {
    for (const [at, from] of [
      ["02:30", "2026-03-20"],
      ["23:30", "2026-10-20"],
      ["00:00", "2011-12-20"],
    ]) {
      const faults = await rows(
        `with recursive turns as (
           select app_private.daily_after($3::timestamptz, $1, $2) as moment, 1 as n
           union all
           select app_private.daily_after(t.moment, $1, $2), t.n + 1 from turns as t where t.n < 20
         ),
         pairs as (select t.moment, lead(t.moment) over (order by t.n) as next from turns as t)
         select p.*
         from pairs as p
         where p.next is not null and (
           p.next <= p.moment
           or app_private.daily_after(p.next - interval '1 second', $1, $2) <> p.next
           or app_private.daily_before(p.moment, $1, $2) <> p.moment
           or app_private.daily_before(p.next - interval '1 second', $1, $2) <> p.moment
           or ((p.next at time zone $1)::date - (p.moment at time zone $1)::date <> 1
             and not ($1 = 'Pacific/Apia' and (p.next at time zone $1)::date = '2011-12-31')))`,
        [zone, at, from],
      );
      expect(faults, `${at} from ${from}`).toEqual([]);
    }
  });
});

test("a date that had its turn has no second one, though it is due again under another hour or zone", async () => {
  const due = async (at: string, zone: string, daily: string, last: string | null) =>
    (
      await rows(
        `select d.slot is not null as runs, d.missed::int, to_timestamp(d.taken) as taken, d.then_at
         from app.tiers as c
         cross join lateral app_private.daily_due(c, $1, $2, $3, extract(epoch from $4::timestamptz)::bigint) as d
         where c.tier = 'ACTIVE'`,
        [at, zone, daily, last],
      )
    )[0]!;
  const nine = "2026-07-01 09:00:00+00";
  expect(await due("2026-07-01 12:00:00+00", "UTC", "09:00", nine)).toMatchObject({ runs: false, missed: 0 });
  expect(await due("2026-07-01 18:00:00+00", "UTC", "17:00", nine)).toMatchObject({ runs: false });
  expect(await due("2026-07-01 15:00:00+00", "America/New_York", "09:00", nine)).toMatchObject({
    runs: false,
  });
  expect(await due("2026-07-02 09:00:00+00", "UTC", "09:00", nine)).toEqual({
    runs: true,
    missed: 0,
    taken: new Date("2026-07-02 09:00:00Z"),
    then_at: new Date("2026-07-03 09:00:00Z"),
  });
  expect(await due("2026-07-05 12:00:00+00", "UTC", "09:00", nine)).toMatchObject({ runs: true, missed: 3 });
  expect(await due("2026-07-05 12:00:00+00", "UTC", "09:00", null)).toMatchObject({ runs: true, missed: 0 });
  // The clock has gone back.
  expect(await due("2026-06-28 12:00:00+00", "UTC", "09:00", nine)).toMatchObject({
    runs: false,
    taken: new Date("2026-06-28 09:00:00Z"),
  });
});
