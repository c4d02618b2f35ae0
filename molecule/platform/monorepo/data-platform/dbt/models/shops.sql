select {{ shared.shout('lyon') }} as city
