@echo off
rem Opens the page. The first time it makes .venv and installs requirements.txt into it.
rem Arguments go on to app.py.
setlocal
cd /d "%~dp0.."

set "PYTHON=.venv\Scripts\python.exe"
if exist "%PYTHON%" goto installed

set "FOUND="
call :try "py -3"
call :try "python"
call :try "python3"
if not defined FOUND (
    echo error: Python 3.11 or newer is needed; get one from https://www.python.org/downloads/ 1>&2
    exit /b 1
)
echo Making .venv ...
%FOUND% -m venv .venv
if errorlevel 1 exit /b 1

:installed
fc /b requirements.txt .venv\installed-requirements.txt >nul 2>nul
if not errorlevel 1 goto start
echo Installing requirements.txt; the first time this takes a few minutes ...
"%PYTHON%" -m pip install --disable-pip-version-check --no-input -q -r requirements.txt
if errorlevel 1 (
    echo error: pip couldn't install requirements.txt; is there a network, and space on the disk? 1>&2
    exit /b 1
)
copy /y requirements.txt .venv\installed-requirements.txt >nul

:start
"%PYTHON%" app.py %*
exit /b %errorlevel%

:try
if defined FOUND exit /b 0
%~1 -c "import sys; sys.exit(sys.version_info < (3, 11))" >nul 2>nul
if not errorlevel 1 set "FOUND=%~1"
exit /b 0
