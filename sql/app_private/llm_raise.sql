create or replace function app_private.llm_raise(refusal text, detail jsonb) returns void
language plpgsql
set search_path = ''
as $$
declare
  v_sqlstate constant text := (select e.sqlstate from app.error_codes as e where e.name = refusal);
begin
  raise exception using
    errcode = v_sqlstate,
    message = refusal,
    detail  = coalesce(llm_raise.detail, '{}'),
    hint    = app_private.llm_hint(refusal, llm_raise.detail);
end
$$;

comment on function app_private.llm_raise is
  'Raises what a list of many answers for one: LB101, LB102, LB103, LB104, LB105, LB201, JB101.';
