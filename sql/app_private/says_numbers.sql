create or replace function app_private.says_numbers(said text, slots jsonb) returns boolean
language sql
immutable
parallel safe
set search_path = ''
as $$
  -- Slots go in one pass, so that taking one out cannot make another. Raised, wide and broken digits become plain ones.
  select pg_catalog.regexp_replace(normalize(said, nfkc), '\{\{[a-z0-9_]+\}\}', '', 'g')
      ~ '[0-9٠-٩۰-۹०-९{}]'
    or exists (
      select from pg_catalog.regexp_matches(said, '\{\{([a-z0-9_]+)\}\}', 'g') as m (slot)
      where not slots ? m.slot[1])
$$;

comment on function app_private.says_numbers is
  'Whether a text holds a digit of its own, a brace, or a {{slot}} that is not among the slots: SQL fills in every number.';
